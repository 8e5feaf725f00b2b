#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn model() -> ModelInfo {
    ModelInfo {
        name: "test".into(),
        kind: "ti2v-5b".into(),
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
        size_720p: [1280, 704],
        defaults: json!({"fps": 16}),
    }
}

fn read(body: &Value) -> Result<GenerationRequest, ApiError> {
    let body = body.to_string();
    let parsed = parse(body.as_bytes(), &model(), &Limits::default())?;
    let image = match parsed.picture {
        Some(FileSource::Bytes(bytes)) => Some(bytes),
        _ => None,
    };
    Ok(GenerationRequest {
        image,
        ..parsed.request
    })
}

#[test]
fn the_samplers_request_is_read_as_it_is_sent() {
    let job = read(&json!({
        "prompt": "a boat", "image": "AAAA", "fps": 16, "frames": 81,
        "resolution": "480p", "fast": true,
    }))
    .unwrap();
    let expected = GenerationRequest {
        prompt: "a boat".into(),
        image: Some(vec![0; 3]),
        num_frames: Some(81),
        fps: Some(16),
        width: Some(832),
        height: Some(480),
        ..GenerationRequest::default()
    };
    assert_eq!(format!("{job:?}"), format!("{expected:?}"));
}

#[test]
fn the_other_vocabularies_mean_the_same() {
    let job = read(&json!({"input_args": {
        "prompt": "a boat", "first_image_b64": "data:image/png;base64,AAAA", "num_frames": 81.0,
        "num_inference_steps": 30, "guidance_scale": 5, "guidance_scale_2": 1.5,
        "sample_shift": 3.0, "negative_prompt": "blur", "seed": 42, "width": 480, "height": 832,
        "single_frame": false, "unknown": {"nested": []}, "fps": null,
    }}))
    .unwrap();
    let expected = GenerationRequest {
        prompt: "a boat".into(),
        negative_prompt: Some("blur".into()),
        image: Some(vec![0; 3]),
        num_frames: Some(81),
        fps: None,
        width: Some(480),
        height: Some(832),
        num_inference_steps: Some(30),
        guidance_scale: Some(5.0),
        guidance_scale_2: Some(1.5),
        flow_shift: Some(3.0),
        seed: Some(42),
        ..GenerationRequest::default()
    };
    assert_eq!(format!("{job:?}"), format!("{expected:?}"));
}

#[test]
fn sizes_have_several_spellings() {
    for (text, size) in [
        ("480p", [832, 480]),
        ("720P", [1280, 704]),
        ("480x832", [480, 832]),
        ("1280*720", [1280, 720]),
    ] {
        let job = read(&json!({"prompt": "p", "resolution": text})).unwrap();
        assert_eq!([job.width.unwrap(), job.height.unwrap()], size, "{text}");
    }
    let both = json!({"prompt": "p", "resolution": "480p", "width": 832, "height": 480});
    assert_eq!(read(&both).unwrap().width, Some(832));
}

#[test]
fn one_thing_under_two_names_must_have_one_value() {
    for body in [
        json!({"prompt": "p", "frames": 81, "num_frames": 49}),
        json!({"prompt": "p", "steps": 8, "num_inference_steps": 9}),
        json!({"prompt": "p", "image": "AAAA", "image_b64": "BBBB"}),
        json!({"prompt": "p", "shift": 3, "sample_shift": 5}),
        json!({"prompt": "p", "resolution": "480p", "width": 480, "height": 832}),
    ] {
        assert_eq!(read(&body).unwrap_err().status(), 400, "{body}");
    }
    let agreeing = json!({"prompt": "p", "frames": 81, "num_frames": 81, "steps": null});
    assert_eq!(read(&agreeing).unwrap().num_frames, Some(81));
}

#[test]
fn bad_values_name_their_field() {
    for (field, value) in [
        ("prompt", json!(7)),
        ("prompt", json!(" \n")),
        ("prompt", json!("x".repeat(16_385))),
        ("negative_prompt", json!(["a"])),
        ("image", json!(5)),
        ("frames", json!(0)),
        ("frames", json!(-1)),
        ("frames", json!(1.5)),
        ("frames", json!(1_000_000)),
        ("frames", json!(u64::MAX)),
        ("frames", json!("81")),
        ("fps", json!(0)),
        ("fps", json!(1e300)),
        ("steps", json!(0)),
        ("steps", json!(100_000)),
        ("fast", json!("yes")),
        ("guidance_scale", json!("5")),
        ("seed", json!(-1)),
        ("seed", json!(0.5)),
        ("resolution", json!("")),
        ("resolution", json!("1080p")),
        ("resolution", json!("0x480")),
        ("resolution", json!("-832x480")),
        ("resolution", json!("99999999999999999999x480")),
        ("resolution", json!("60000x60000")),
        ("resolution", json!(480)),
    ] {
        let mut body = json!({"prompt": "p"});
        body[field] = value.clone();
        let error = read(&body).unwrap_err();
        assert_eq!(error.status(), 400, "{field} {value}");
        assert!(
            format!("{error:?}").contains(&format!("\"{field}: ")),
            "{error:?}"
        );
    }
    assert!(format!("{:?}", read(&json!({})).unwrap_err()).contains("prompt: is missing"));
    let error = read(&json!({"prompt": "p", "width": 832})).unwrap_err();
    assert!(format!("{error:?}").contains("height: is missing"));
}

#[test]
fn bodies_that_are_no_object_are_refused() {
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"prompt\"",
        "{\"args\": []}",
        "\u{feff}{}",
        "nan",
    ] {
        let error = parse(body.as_bytes(), &model(), &Limits::default()).unwrap_err();
        assert_eq!(error.status(), 400, "{body:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        parse(deep.as_bytes(), &model(), &Limits::default())
            .unwrap_err()
            .status(),
        400
    );
    let bytes = [b'{', b'"', 0xff, 0xfe];
    assert_eq!(
        parse(&bytes, &model(), &Limits::default())
            .unwrap_err()
            .status(),
        400
    );
}

#[test]
fn messages_do_not_repeat_what_users_wrote() {
    let body = json!({"prompt": ["a private wish"], "seed": "a long text that somebody wrote"});
    assert!(!format!("{:?}", read(&body).unwrap_err()).contains("private"));
}

#[test]
fn seconds_and_size_mean_what_openai_clients_mean() {
    let request = read(&json!({"prompt": "p", "seconds": "4", "size": "480x832"})).unwrap();
    assert_eq!(request.num_frames, Some(64));
    assert_eq!((request.width, request.height), (Some(480), Some(832)));
    let request = read(&json!({"prompt": "p", "seconds": 2, "fps": 24})).unwrap();
    assert_eq!(request.num_frames, Some(48));
    for body in [
        json!({"prompt": "p", "seconds": "four"}),
        json!({"prompt": "p", "seconds": 0}),
        json!({"prompt": "p", "seconds": 1e9}),
        json!({"prompt": "p", "seconds": 4, "frames": 81}),
        json!({"prompt": "p", "size": "480p", "resolution": "720p"}),
    ] {
        assert_eq!(read(&body).unwrap_err().status(), 400, "{body}");
    }
}

#[test]
fn what_is_stored_is_read_again_as_it_was() {
    let body = json!({
        "prompt": "p", "negative_prompt": "n", "frames": 9, "width": 64, "height": 96, "fps": 8,
        "steps": 3, "guidance_scale": 2.5, "guidance_scale_2": 1.5, "shift": 4, "boundary_ratio": 0.9,
        "scheduler": "euler", "seed": u64::MAX, "noise_source": "cuda:4090", "crf": 3,
        "preset": "official", "single_frame": true,
    });
    let request = read(&body).unwrap();
    let again = read(&Value::Object(canonical(&request))).unwrap();
    assert_eq!(format!("{request:?}"), format!("{again:?}"));
    assert_eq!(canonical(&request).len(), 17);
}

#[test]
fn links_are_told_apart_from_files() {
    let body =
        json!({"prompt": "p", "input_reference": {"image_url": "https://example.org/a.png"}});
    let parsed = parse(body.to_string().as_bytes(), &model(), &Limits::default()).unwrap();
    let link = FileSource::Link {
        field: "input_reference",
        url: "https://example.org/a.png".into(),
    };
    assert_eq!(parsed.picture, Some(link));
}
