//! The page of `judge report --format html`: a file, opened from the disk.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::browser::{Browser, DESKTOP, PHONE, switched_off};

/// A small PNG as a data URL.
fn picture() -> String {
    use base64::Engine as _;
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_fn(150, 86, |x, y| image::Rgb([x as u8, y as u8, 120]));
    pixels
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes.into_inner());
    format!("data:image/png;base64,{text}")
}

#[tokio::test]
async fn the_agreement_page_needs_no_server_and_runs_nothing() {
    if switched_off() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/judge/simulated.jsonl");
    let log: String = std::fs::read_to_string(data)
        .unwrap()
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["prompt"] = "</p><img src=x onerror=document.title='run'>a boat "
                .repeat(3)
                .into();
            line["remarks"] = json!([format!(
                "<script>document.title='run'</script>{}",
                "x".repeat(300)
            )]);
            line["frames"] = json!(vec![picture(); 13]);
            format!("{line}\n")
        })
        .collect();
    let (file, page) = (
        folder.path().join("log.jsonl"),
        folder.path().join("page.html"),
    );
    std::fs::write(&file, log).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_leoma-node"))
        .args(["judge", "report", "--format", "html", "--output"])
        .args([&page, &file])
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .status()
        .unwrap();
    // The simulated local judge gets worse, which is an alarm.
    assert_eq!(status.code(), Some(1));

    let browser = Browser::start().await;
    browser.go(&format!("file://{}", page.display())).await;
    assert_eq!(
        browser.value("document.title").await,
        "simulated-2b beside gpt-4o"
    );
    let shown = browser.value(
        "[document.querySelectorAll('svg').length, document.querySelectorAll('script').length,
          [...document.images].every((image) => image.naturalWidth === 150), document.images.length]",
    );
    assert_eq!(shown.await, json!([11, 0, true, 40 * 13]));
    // Nothing that is drawn leaves its drawing.
    let outside = browser.value(
        "[...document.querySelectorAll('svg text, svg circle')].filter((shape) => {
           const [a, b] = [shape.getBoundingClientRect(), shape.ownerSVGElement.getBoundingClientRect()];
           return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
         }).map((shape) => shape.outerHTML)",
    );
    assert_eq!(outside.await, json!([]));
    browser.screenshot("agreement").await;
    browser.dark(true).await;
    browser.screenshot("agreement-dark").await;
    browser.dark(false).await;
    browser.size(PHONE).await;
    browser.assert_fits("the agreement page").await;
    browser.screenshot("agreement-phone").await;
    browser.size(DESKTOP).await;
    browser.assert_clean(&[]).await;
}
