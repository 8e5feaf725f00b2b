//! The page of `judge --format html`: a file, opened from the disk.

use std::process::Command;

use leoma_node::media::{Fps, Mp4Options, Mp4Writer, write_png};
use serde_json::json;

use crate::browser::{Browser, DESKTOP, PHONE, switched_off};

const WIDTH: usize = 208;
const HEIGHT: usize = 120;

/// A bar that moves over a striped ground; behind frame 20 the picture is inverted, which is a cut.
fn frame(number: usize) -> Vec<u8> {
    let pixels = (0..HEIGHT).flat_map(|y| {
        (0..WIDTH).flat_map(move |x| {
            let inside = (x + WIDTH - 3 * number % WIDTH) % WIDTH < 30;
            let rgb = if inside {
                [210, 60, 40]
            } else {
                [(40 + 90 * (y / 9 % 2)) as u8, (x / 2) as u8, 90]
            };
            rgb.map(|level| if number > 20 { 255 - level } else { level })
        })
    });
    pixels.collect()
}

#[tokio::test]
async fn the_page_of_a_judgement_needs_no_server_and_runs_nothing() {
    if switched_off() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (width, height) = (WIDTH as u32, HEIGHT as u32);
    let options = Mp4Options {
        width,
        height,
        fps: Fps::from(16),
        crf: 18,
        metadata: Vec::new(),
    };
    let mut writer = Mp4Writer::create(&file("clip.mp4"), &options).unwrap();
    for number in 0..33 {
        writer.push(&frame(number)).unwrap();
    }
    writer.finish().unwrap();
    write_png(&file("first.png"), width, height, &frame(0)).unwrap();
    let prompt = "</p><img src=x onerror=document.title='run'><script>document.title='run'</script> a bar moves "
        .repeat(3)
        + &"x".repeat(300);
    // Both sides are on the page: the remote one has no server and says so.
    let page = Command::new(env!("CARGO_BIN_EXE_leoma-node"))
        .args(["judge", "--video", "clip.mp4", "--first-frame", "first.png"])
        .args(["--mode", "both", "--deadline", "2s", "--format", "html"])
        .args([
            "--base-url",
            "http://127.0.0.1:9/v1",
            "--state-dir",
            "state",
        ])
        .args(["--prompt", &prompt])
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .current_dir(folder.path())
        .output()
        .unwrap();
    // A cut rules a pass out, whatever the other side would say.
    assert_eq!(page.status.code(), Some(1), "{page:?}");
    std::fs::write(file("page.html"), &page.stdout).unwrap();

    let browser = Browser::start().await;
    browser
        .go(&format!("file://{}", file("page.html").display()))
        .await;
    assert_eq!(browser.value("document.title").await, "Judgement of a clip");
    // Two first frames, and six that the remote judge is shown; six bars, an overall, and two courses.
    let shown = browser.value(
        "[document.querySelectorAll('script').length, document.images.length,
          [...document.images].every((image) => image.naturalWidth === 208 && image.alt),
          document.querySelectorAll('svg.picture').length,
          document.querySelector('.outcome strong').textContent]",
    );
    assert_eq!(shown.await, json!([0, 8, true, 2, "The clip fails."]));
    // Nothing that is drawn leaves its drawing.
    let outside = browser.value(
        "[...document.querySelectorAll('svg.picture text, svg.picture polyline')].filter((shape) => {
           const [a, b] = [shape.getBoundingClientRect(), shape.ownerSVGElement.getBoundingClientRect()];
           return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
         }).map((shape) => shape.outerHTML)",
    );
    assert_eq!(outside.await, json!([]));
    browser
        .js("for (const fold of document.querySelectorAll('details')) fold.open = true")
        .await;
    browser.screenshot("judgement").await;
    browser.dark(true).await;
    browser.screenshot("judgement-dark").await;
    browser.dark(false).await;
    browser.size(PHONE).await;
    browser.assert_fits("the page of a judgement").await;
    browser.screenshot("judgement-phone").await;
    browser.size(DESKTOP).await;
    browser.assert_clean(&[]).await;
}
