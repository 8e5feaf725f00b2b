//! The pages in a real browser, over the real program with a scripted engine.
//!
//! Needs chromedriver and Chromium; `LEOMA_TEST_NO_BROWSER=1` leaves these tests out. With
//! `LEOMA_TEST_SCREENSHOTS=DIR` they also write what they saw.
#![cfg(feature = "ffmpeg")]
#![allow(clippy::unwrap_used)]

mod agreement;
mod browser;
mod form;
mod gallery;
mod judgement;
mod node;
mod playground;
mod reading;

use std::path::{Path, PathBuf};

use browser::{Browser, DESKTOP, ENTER, ESCAPE, PHONE, switched_off};
use node::{Node, WATCHABLE};
use serde_json::json;

/// The folder of the picture that the tests upload, and that the repeated command reads.
fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
}

/// Fills the form in for a clip that is small and has time to be watched.
async fn describe(browser: &Browser, prompt: &str) {
    browser.until("document.getElementById('size').options.length > 2 && document.getElementById('num_frames').value").await;
    let picture = assets().join("demo.png");
    browser.fill("#image", picture.to_str().unwrap()).await;
    browser.fill("#prompt", prompt).await;
    browser.choose("#size", "512x288").await;
    browser.replace("#num_frames", "9").await;
    browser.replace("#num_inference_steps", "20").await;
}

/// Waits for the clip beside the form and that it can be played.
async fn clip(browser: &Browser) {
    browser.shown("#done").await;
    browser
        .until("document.querySelector('#stage video')?.readyState >= 2")
        .await;
    let player = browser.value(
        "(({duration, videoWidth, videoHeight, error}) => [duration > 0, videoWidth, videoHeight, error])(document.querySelector('#stage video'))",
    );
    assert_eq!(player.await, json!([true, 512, 288, null]));
}

/// Name of the job that the page's address tells.
async fn job(browser: &Browser) -> String {
    let hash = browser.value("location.hash").await;
    let id = hash.as_str().unwrap().strip_prefix('#').unwrap().to_owned();
    assert!(id.starts_with("video_"), "{id}");
    id
}

#[tokio::test]
async fn a_node_with_a_key_asks_for_it() {
    if switched_off() {
        return;
    }
    let key = "sesame-open-sesame";
    let node = Node::start(WATCHABLE, Some(key));
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    browser
        .until("document.activeElement.id === 'key' && document.activeElement.type === 'password'")
        .await;
    browser.screenshot("key").await;

    // Left alone, the page says how to come back to the question.
    browser.press(ESCAPE).await;
    browser.shown("#key-button").await;
    browser.click("#key-button").await;
    browser.fill("#key", "wrong").await;
    browser.press(ENTER).await;
    browser
        .until("document.querySelector('dialog[open]')?.textContent.includes('not accepted')")
        .await;
    browser.replace("#key", key).await;
    browser.press(ENTER).await;
    browser
        .until("document.getElementById('model-name').textContent")
        .await;

    describe(&browser, "behind a door").await;
    browser.click("#submit").await;
    clip(&browser).await;
    let source = browser.value("document.querySelector('#stage video').src");
    assert!(source.await.as_str().unwrap().starts_with("blob:"));
    let line = browser.text("#curl pre").await;
    assert!(
        line.contains("Bearer $LEOMA_NODE_API_KEY") && !line.contains(key),
        "{line}"
    );

    browser.go(&node.page("/gallery")).await;
    browser
        .until("document.querySelector('.poster img')?.naturalWidth > 0")
        .await;
    browser.go(&node.page("/docs")).await;
    browser.shown(".operation").await;

    // It lives in this tab's storage and nowhere else.
    let places = browser.value("[JSON.stringify({...localStorage}), document.cookie, location.href, document.body.innerHTML].join()").await;
    assert!(!places.as_str().unwrap().contains(key));
    browser.assert_clean(&[401]).await;
}

#[tokio::test]
async fn every_page_fits_a_phone() {
    if switched_off() {
        return;
    }
    let node = Node::start("", None);
    let long = "a_very_long_word_without_any_place_to_break_it_".repeat(6);
    let id = node.order(&long).await;
    node.ended(&id).await;
    let browser = Browser::start().await;
    for size in [PHONE, [360, 740]] {
        browser.size(size).await;
        for (page, ready) in [
            (format!("/#{id}"), "#done"),
            ("/gallery".into(), "button.poster"),
            ("/status".into(), "#model tr"),
            ("/docs".into(), ".operation"),
        ] {
            browser.go(&node.page(&page)).await;
            browser.shown(ready).await;
            for _ in 0..4 {
                // What is inside a fold is made when it opens.
                browser.js("for (const fold of document.querySelectorAll('details')) fold.open = true; return new Promise((done) => setTimeout(done, 50))").await;
            }
            browser.assert_fits(&format!("{page} at {size:?}")).await;
            let small = browser.value(
                "[...document.querySelectorAll('main button, .top a, .top button, main input:not([type=checkbox], .unseen), select, summary')]
                 .filter((element) => element.offsetParent && element.getBoundingClientRect().height < 34).map((element) => element.outerHTML)",
            );
            assert_eq!(small.await, json!([]), "too small for a thumb on {page}");
        }
    }
    browser.size(PHONE).await;
    for page in ["gallery", "status", "docs"] {
        browser.go(&node.page(&format!("/{page}"))).await;
        browser
            .until("document.getElementById('model-name').textContent")
            .await;
        browser.screenshot(&format!("{page}-phone")).await;
    }
    browser.size(DESKTOP).await;
    browser.assert_clean(&[]).await;
}
