//! Profiles: what the same request means to the published Wan endpoints.

use std::fmt;
use std::str::FromStr;

use leoma_models::Error;

use super::Cord;
use crate::engine::ModelInfo;
use crate::generation::{GenerationRequest, Preset};
use crate::media::ImagePreparation;

/// Whose defaults the Chutes routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// The node's preset: what the subnet's evaluator does.
    #[default]
    Leoma,
    /// The public Wan 2.2 image-to-video chute.
    ChutesWan22,
    /// The SDK's Wan 2.1 example.
    ChutesWan21,
}

impl Profile {
    /// All profiles, in the order of the help text.
    pub const ALL: [Self; 3] = [Self::Leoma, Self::ChutesWan22, Self::ChutesWan21];

    /// Spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leoma => "leoma",
            Self::ChutesWan22 => "chutes-wan22",
            Self::ChutesWan21 => "chutes-wan21",
        }
    }

    /// Fills what the request leaves open, before the preset does.
    pub(super) fn fill(self, cord: Cord, model: &ModelInfo, request: &mut GenerationRequest) {
        if !model.kind.ends_with("a14b") {
            // Published vocabularies always carry it; with one expert it has nothing to say.
            request.guidance_scale_2 = None;
        }
        // Only the text routes know it; elsewhere it is one more unknown field.
        request.still = cord == Cord::Text2Image || (cord == Cord::Text2Video && request.still);
        if self == Self::Leoma {
            return;
        }
        request.image_preparation = Some(ImagePreparation::CoverCrop);
        set(&mut request.fps, 16);
        set(&mut request.num_frames, 81);
        if request.height.is_none() && request.width.is_none() {
            (request.width, request.height) = (Some(832), Some(480));
        }
        match self {
            Self::Leoma => {}
            Self::ChutesWan22 => {
                let official = Preset::Official.values(leoma_models::weights::ModelKind::I2vA14b);
                set(
                    &mut request.negative_prompt,
                    official.negative_prompt.into(),
                );
                set(&mut request.guidance_scale, 1.0);
                if model.kind.ends_with("a14b") {
                    set(&mut request.guidance_scale_2, 1.0);
                }
                if request.seed.is_none() {
                    request.seed = Some(random_seed());
                }
            }
            Self::ChutesWan21 => {
                set(&mut request.negative_prompt, WAN21_NEGATIVE.into());
                set(&mut request.guidance_scale, 5.0);
                set(&mut request.num_inference_steps, 25);
                let shift = if cord == Cord::Image2Video { 3.0 } else { 5.0 };
                set(&mut request.flow_shift, shift);
                set(&mut request.seed, 42);
            }
        }
    }
}

/// Default of the SDK's example: the published negative prompt in English.
const WAN21_NEGATIVE: &str = "Vibrant colors, overexposed, static, blurry details, subtitles, style, artwork, \
painting, picture, still, overall grayish, worst quality, low quality, JPEG compression artifacts, ugly, \
incomplete, extra fingers, poorly drawn hands, poorly drawn face, deformed, disfigured, malformed limbs, \
fused fingers, motionless image, cluttered background, three legs, many people in the background, walking \
backwards, slow motion";

fn set<T>(field: &mut Option<T>, value: T) {
    field.get_or_insert(value);
}

/// 32 bits, so that the number survives clients whose numbers are floats.
fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64 & u64::from(u32::MAX)
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| {
                let message = format!("`{name}` is not one of leoma, chutes-wan22, chutes-wan21");
                Error::caller("profile", message)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(kind: &str) -> ModelInfo {
        ModelInfo {
            name: "m".into(),
            kind: kind.into(),
            digest: None,
            revision: None,
            preset: "leoma".into(),
            dtype: "f32".into(),
            bf16_rounding: None,
            lossy: false,
            loras: Vec::new(),
            device: "cpu".into(),
            attention: "cpu-flash".into(),
            text_to_video: true,
            image_to_video: true,
            size_720p: [1280, 720],
            defaults: serde_json::Value::Null,
        }
    }

    fn filled(profile: Profile, cord: Cord, kind: &str) -> GenerationRequest {
        let mut request = GenerationRequest {
            guidance_scale_2: Some(1.5),
            still: true,
            ..GenerationRequest::default()
        };
        profile.fill(cord, &model(kind), &mut request);
        request
    }

    #[test]
    fn each_profile_has_its_published_defaults() {
        let request = filled(Profile::Leoma, Cord::Generate, "ti2v-5b");
        assert_eq!((request.guidance_scale_2, request.still), (None, false));
        assert_eq!((request.seed, request.image_preparation), (None, None));

        let request = filled(Profile::ChutesWan22, Cord::Generate, "i2v-a14b");
        assert_eq!(request.guidance_scale, Some(1.0));
        assert_eq!(request.guidance_scale_2, Some(1.5), "the caller's");
        assert_eq!((request.width, request.height), (Some(832), Some(480)));
        assert_eq!((request.num_frames, request.fps), (Some(81), Some(16)));
        assert!(request.seed.is_some_and(|seed| u32::try_from(seed).is_ok()));
        assert_eq!(request.image_preparation, Some(ImagePreparation::CoverCrop));

        let request = filled(Profile::ChutesWan21, Cord::Image2Video, "i2v-a14b");
        assert_eq!((request.flow_shift, request.seed), (Some(3.0), Some(42)));
        assert_eq!(request.num_inference_steps, Some(25));
        assert!(!request.still, "ignored by this cord");
        let request = filled(Profile::ChutesWan21, Cord::Text2Video, "t2v-a14b");
        assert_eq!(request.flow_shift, Some(5.0));
        assert!(request.still);
        assert!(filled(Profile::Leoma, Cord::Text2Image, "t2v-a14b").still);
    }
}
