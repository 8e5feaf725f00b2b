//! The routes that Chutes clients call: public invocation and the platform's read interface.

mod generate;
mod platform;
mod profile;
mod schema;
mod trace;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;

pub(super) use schema::DetailError;

pub use platform::ChuteIdentity;
pub use profile::Profile;

/// A callable of a chute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cord {
    /// `POST /generate`.
    Generate,
    /// `POST /image2video`.
    Image2Video,
    /// `POST /text2video`.
    Text2Video,
    /// `POST /text2image`.
    Text2Image,
}

impl Cord {
    const ALL: [Self; 4] = [
        Self::Generate,
        Self::Image2Video,
        Self::Text2Video,
        Self::Text2Image,
    ];

    /// Name of the function; with a slash in front, the path.
    fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Image2Video => "image2video",
            Self::Text2Video => "text2video",
            Self::Text2Image => "text2image",
        }
    }

    /// Whether a picture in the request is looked at.
    fn takes_image(self) -> bool {
        matches!(self, Self::Generate | Self::Image2Video)
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Text2Image => "image/png",
            _ => "video/mp4",
        }
    }
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(generate::generate))
        .routes(routes!(generate::image2video))
        .routes(routes!(generate::text2video))
        .routes(routes!(generate::text2image))
        .routes(routes!(platform::chute))
        .routes(routes!(platform::chutes))
}
