//! Files in JSON: base64 in either alphabet, with or without padding, line breaks and `data:` in
//! front. Links are recognised, and not followed here.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::ApiError;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a file is expected to be, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A picture.
    Picture,
    /// A clip.
    Video,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Picture => "a PNG, JPEG or WebP file",
            Self::Video => "a video file",
        }
    }
}

/// Decodes the file in `field`. The decoded size is known and bounded before anything is decoded.
///
/// # Errors
/// 400 for anything but base64, 413 beyond `max_bytes`.
pub(super) fn decode(
    field: &str,
    text: &str,
    max_bytes: usize,
    kind: Kind,
) -> Result<Vec<u8>, ApiError> {
    let kind = kind.name();
    let encoded = strip_data_uri(field, text.trim())?;
    let digits = encoded
        .bytes()
        .filter(|b| !b.is_ascii_whitespace() && *b != b'=')
        .count();
    let bytes = digits / 4 * 3 + [0, 0, 1, 2][digits % 4];
    if bytes > max_bytes {
        let message = format!("{bytes} bytes after base64; this server takes at most {max_bytes}");
        return Err(ApiError::too_large(field, message));
    }
    if bytes == 0 {
        let message = format!("is empty; send {kind} in base64");
        return Err(ApiError::invalid(field, message));
    }
    let plain = |b: u8| !b.is_ascii_whitespace() && b != b'-' && b != b'_';
    let standard: Cow<'_, [u8]> = if encoded.bytes().all(plain) {
        encoded.as_bytes().into()
    } else {
        let digits = encoded.bytes().filter(|b| !b.is_ascii_whitespace());
        let digits = digits.map(|b| match b {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        });
        digits.collect()
    };
    ENGINE.decode(&standard).map_err(|e| {
        let message = format!("is not base64 ({e}); send {kind} in base64");
        ApiError::invalid(field, message)
    })
}

/// Whether the text is an address in place of a file.
pub(super) fn is_link(text: &str) -> bool {
    let text = text.trim_start();
    ["http:", "https:"].into_iter().any(|scheme| {
        text.get(..scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    })
}

/// Removes `data:image/png;base64,`.
fn strip_data_uri<'a>(field: &str, text: &'a str) -> Result<&'a str, ApiError> {
    let starts = |prefix: &str| {
        text.get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    };
    if !starts("data:") {
        return Ok(text);
    }
    let Some((head, encoded)) = text.split_once(',') else {
        return Err(ApiError::invalid(field, "is a data: URI without a comma"));
    };
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Err(ApiError::invalid(
            field,
            "is a data: URI that is not marked ;base64",
        ));
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decode_image(field: &str, text: &str, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
        decode(field, text, max_bytes, Kind::Picture)
    }

    #[test]
    fn both_alphabets_padding_line_breaks_and_data_uris_decode_alike() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        for text in [
            "+//+AQ==",
            "-__-AQ==",
            "+//+AQ",
            " +//+\r\nAQ==\n",
            "data:image/png;base64,+//+AQ==",
            "DATA:image/png;charset=x;BASE64,-__-AQ",
        ] {
            assert_eq!(decode_image("image", text, 4).unwrap(), bytes, "{text:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_field_named() {
        for text in [
            "",
            "   ",
            "====",
            "data:image/png;base64,",
            "data:image/png,abcd",
            "data:abcd",
            "not base64!",
            "abcde",
            "ab=cd",
            "äöü",
        ] {
            let error = decode_image("image_b64", text, 100).unwrap_err();
            assert_eq!(error.status(), 400, "{text:?}");
            assert!(format!("{error:?}").contains("image_b64: "), "{error:?}");
        }
    }

    #[test]
    fn links_are_recognised() {
        for text in ["http://example.org/a.png", " HTTPS://example.org/a.png"] {
            assert!(is_link(text), "{text}");
        }
        for text in ["httpAAAA", "data:image/png;base64,aHR0cDovLw==", ""] {
            assert!(!is_link(text), "{text}");
        }
    }

    #[test]
    fn the_size_is_judged_before_decoding() {
        // Not decodable, yet too large comes first: nothing was decoded.
        assert_eq!(
            decode_image("image", &"!".repeat(400), 200)
                .unwrap_err()
                .status(),
            413
        );
        assert_eq!(
            decode_image("image", &"A".repeat(400), 300).unwrap().len(),
            300
        );
        assert_eq!(
            decode_image("image", &"A".repeat(402), 300)
                .unwrap_err()
                .status(),
            413
        );
    }
}
