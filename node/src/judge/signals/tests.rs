#![allow(clippy::unwrap_used)]
//! Closed-form clips: constants, a known pan, a known step.

use super::*;

const WIDTH: usize = 96;
const HEIGHT: usize = 64;

/// A picture whose grey level is `grey(x, y)`.
fn picture(grey: impl Fn(f32, f32) -> f32) -> RgbImage8 {
    let data = (0..WIDTH * HEIGHT)
        .flat_map(|at| {
            let (x, y) = ((at % WIDTH) as f32, (at / WIDTH) as f32);
            [grey(x, y).round().clamp(0.0, 255.0) as u8; 3]
        })
        .collect();
    RgbImage8::new(WIDTH, HEIGHT, data).unwrap()
}

fn texture(x: f32, y: f32) -> f32 {
    128.0
        + 40.0 * (x * 0.19 + (y * 0.07).sin()).sin()
        + 30.0 * (y * 0.23 - x * 0.05).cos()
        + 25.0 * (x * 0.9).sin() * (y * 0.8).cos()
}

fn signals(frames: &[RgbImage8], first: &RgbImage8) -> Signals {
    let fps = 16.0;
    measure(&Clip { frames, fps, first }).unwrap()
}

fn close(signals: &Signals, id: SignalId, expected: f64, slack: f64) {
    let found = signals.get(id).unwrap();
    assert!(
        (found - expected).abs() <= slack,
        "{}: {found}, not {expected}",
        id.key()
    );
}

#[test]
fn a_constant_clip() {
    let frame = picture(texture);
    let found = signals(&vec![frame.clone(); 17], &frame);
    for (id, expected) in [
        (SignalId::FfSsim, 1.0),
        (SignalId::FfAlign, 1.0),
        (SignalId::FfCorr, 1.0),
        (SignalId::FfPsnr, 100.0),
        (SignalId::FfChroma, 0.0),
        (SignalId::FfMin4, 1.0),
        (SignalId::FirstJump, 0.0),
        // The known inversion: nothing looks as steady as a frozen clip.
        (SignalId::FlickVb, 1.0),
        (SignalId::LumaHf, 0.0),
        (SignalId::Dup, 1.0),
        (SignalId::FreezeShare, 1.0),
        (SignalId::FreezeRun, 1.0),
        (SignalId::Jerk, 0.0),
        (SignalId::Order, 0.0),
        (SignalId::Warp, 0.0),
        (SignalId::Mid, 0.0),
        (SignalId::Mag, 0.0),
        (SignalId::Scene, 0.0),
        (SignalId::Histmax, 0.0),
        (SignalId::LapRel, 1.0),
        (SignalId::Overlay, 0.0),
        (SignalId::StillZoom, 0.0),
    ] {
        close(&found, id, expected, 1e-3);
    }
    assert_eq!(found.camera.class, CameraClass::Static);
    assert_eq!(found.frames, 17);
    // One second has no tail after 4 s.
    assert_eq!(found.get(SignalId::TailGap), None);
}

#[test]
fn a_linear_pan() {
    let frames: Vec<RgbImage8> = (0..16)
        .map(|t| picture(|x, y| texture(x + 2.0 * t as f32, y)))
        .collect();
    let found = signals(&frames, &frames[0]);
    close(&found, SignalId::Mag, 2.0, 0.5);
    close(&found, SignalId::Dup, 0.0, 0.0);
    close(&found, SignalId::Order, 0.0, 0.0);
    close(&found, SignalId::Scene, 0.0, 0.05);
    assert!(found.get(SignalId::Warp).unwrap() < 1.5);
    // The camera turns right, so the picture goes left: 15 steps of 2 px at a short side of 64.
    assert_eq!(found.camera.class, CameraClass::PanRight);
    assert!(
        (found.camera.right + 30.0 / 64.0).abs() < 0.05,
        "{:?}",
        found.camera
    );
}

#[test]
fn a_known_step() {
    let (before, after) = (picture(|_, _| 60.0), picture(|_, _| 100.0));
    let frames: Vec<RgbImage8> = (0..12)
        .map(|t| if t < 6 { before.clone() } else { after.clone() })
        .collect();
    let found = signals(&frames, &before);
    close(&found, SignalId::Scene, 0.4, 1e-4);
    close(&found, SignalId::Histmax, 1.0, 1e-6);
    // |m_{t-1} - 2 m_t + m_{t+1}| is 40 on both sides of the step, over ten triples.
    close(&found, SignalId::LumaHf, 8.0, 1e-4);
    close(&found, SignalId::FlickVb, 1.0 - 40.0 / 11.0 / 255.0, 1e-6);
    close(&found, SignalId::FreezeShare, 5.0 / 11.0, 1e-9);
    // A flat conditioning image has no sharpness to compare with.
    assert_eq!(found.get(SignalId::LapRel), None);
}

#[test]
fn the_tail_is_compared_with_what_the_remote_judge_sees() {
    // 4 s of slow motion, then 1 s that runs.
    let mut way = 0.0;
    let frames: Vec<RgbImage8> = (0..81)
        .map(|t| {
            way += if t <= 64 { 0.25 } else { 3.0 };
            picture(|x, y| texture(x + way, y))
        })
        .collect();
    let gap = signals(&frames, &frames[0]).get(SignalId::TailGap).unwrap();
    assert!(gap > 3.0, "{gap}");
    // 4 s of motion, then nothing.
    let stopped: Vec<RgbImage8> = (0..81)
        .map(|t| picture(|x, y| texture(x + 0.5 * t.min(64) as f32, y)))
        .collect();
    let gap = signals(&stopped, &stopped[0])
        .get(SignalId::TailGap)
        .unwrap();
    assert!(gap > 3.0, "{gap}");
    let even: Vec<RgbImage8> = (0..81)
        .map(|t| picture(|x, y| texture(x + 0.25 * t as f32, y)))
        .collect();
    let gap = signals(&even, &even[0]).get(SignalId::TailGap).unwrap();
    assert!(gap < 0.5, "{gap}");
}

#[test]
fn the_conditioning_image_may_have_another_size() {
    let frame = picture(texture);
    let large = {
        let mut data = Vec::new();
        for y in 0..2 * HEIGHT {
            for x in 0..2 * WIDTH {
                let at = 3 * (y / 2 * WIDTH + x / 2);
                data.extend_from_slice(&frame.data()[at..at + 3]);
            }
        }
        RgbImage8::new(2 * WIDTH, 2 * HEIGHT, data).unwrap()
    };
    let found = signals(&vec![frame; 4], &large);
    close(&found, SignalId::FfSsim, 1.0, 1e-3);
}

#[test]
fn clips_without_signals_say_why() {
    let frame = picture(texture);
    let other = RgbImage8::new(40, 40, vec![9; 40 * 40 * 3]).unwrap();
    let tiny = RgbImage8::new(8, 8, vec![9; 8 * 8 * 3]).unwrap();
    let run = |frames: &[RgbImage8], fps: f64| {
        let first = frames.first().unwrap_or(&frame);
        measure(&Clip { frames, fps, first }).unwrap_err()
    };
    assert_eq!(run(&[], 16.0), SignalsError::TooShort { frames: 0 });
    assert_eq!(
        run(std::slice::from_ref(&frame), 16.0),
        SignalsError::TooShort { frames: 1 }
    );
    assert_eq!(
        run(&[tiny.clone(), tiny], 16.0),
        SignalsError::TooSmall {
            width: 8,
            height: 8
        }
    );
    let little = measure(&Clip {
        frames: &[frame.clone(), frame.clone()],
        fps: 16.0,
        first: &RgbImage8::new(8, 8, vec![9; 8 * 8 * 3]).unwrap(),
    })
    .unwrap_err();
    assert_eq!(little.fault(), Fault::Caller);
    assert_eq!(
        run(&[frame.clone(), frame.clone(), other], 16.0),
        SignalsError::SizeChanges { index: 2 }
    );
    assert_eq!(
        run(&[frame.clone(), frame.clone()], 0.0),
        SignalsError::FrameRate
    );
    assert_eq!(
        run(&[frame.clone(), frame.clone()], f64::NAN),
        SignalsError::FrameRate
    );
}

#[test]
fn two_frames_have_what_pairs_can_say() {
    let frame = picture(texture);
    let found = signals(&[frame.clone(), frame.clone()], &frame);
    assert_eq!(found.get(SignalId::Dup), Some(1.0));
    for id in [
        SignalId::FirstJump,
        SignalId::LumaHf,
        SignalId::Jerk,
        SignalId::Order,
        SignalId::Mid,
    ] {
        assert_eq!(found.get(id), None, "{}", id.key());
    }
    assert!(found.iter().all(|(_, value)| value.is_finite()));
}

#[test]
fn measuring_stops_between_frames() {
    let asked = std::cell::Cell::new(0);
    let go_on = || {
        asked.set(asked.get() + 1);
        asked.get() <= 3
    };
    let frame = picture(texture);
    let frames = vec![frame.clone(); 9];
    let clip = Clip {
        frames: &frames,
        fps: 16.0,
        first: &frame,
    };
    let error = measure_while(&clip, &go_on).unwrap_err();
    assert_eq!((&error, asked.get()), (&SignalsError::Cancelled, 4));
    assert_eq!(error.fault(), Fault::Transient);
}

#[test]
fn a_very_long_picture_is_measured_on_a_shorter_one() {
    let (width, height) = (4096, 40);
    let data = (0..width * height).flat_map(|at| {
        let (x, y) = (at % width, at / width);
        [(40 + 150 * (x / 64 % 2)) as u8, (3 * y) as u8, 90]
    });
    let frame = RgbImage8::new(width, height, data.collect()).unwrap();
    let found = signals(&vec![frame.clone(); 3], &frame);
    close(&found, SignalId::FfSsim, 1.0, 1e-3);
    assert_eq!(found.get(SignalId::Dup), Some(1.0));
}
