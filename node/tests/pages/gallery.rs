//! The gallery.

use serde_json::json;

use crate::browser::{Browser, ENTER, ESCAPE, switched_off};
use crate::node::Node;

#[tokio::test]
async fn the_gallery_plays_cancels_and_deletes() {
    if switched_off() {
        return;
    }
    let script = "[[rule]]\nprompt_contains = \"slow\"\nat = \"denoise\"\nfault = \"slow\"\nfactor = 1000.0\n";
    let node = Node::start(&format!("step_s = 0.02\n{script}"), None);
    let browser = Browser::start().await;
    browser.go(&node.page("/gallery")).await;
    browser.shown("#empty").await;

    // What is ordered elsewhere appears by itself.
    let kite = node.order("a red kite").await;
    browser.shown(&format!("#{kite} button.poster")).await;
    let slow = node.order("a slow snail").await;
    browser.shown(&format!("#{slow} [role=progressbar]")).await;
    let ids = browser.value("[...document.querySelectorAll('.job')].map((card) => card.id)");
    assert_eq!(ids.await, json!([slow, kite]), "the latest is first");
    browser
        .until(&format!(
            "document.querySelector('#{kite} .poster img')?.naturalWidth > 0"
        ))
        .await;
    assert!(
        browser
            .text(&format!("#{kite}"))
            .await
            .contains("a red kite")
    );
    browser.screenshot("gallery").await;

    browser.click(&format!("#{kite} button.poster")).await;
    browser
        .until("document.querySelector('dialog[open] video')?.readyState >= 2")
        .await;
    let width = browser
        .value("document.querySelector('dialog video').videoWidth")
        .await;
    assert_eq!(width, 256);
    browser.screenshot("gallery-play").await;
    browser.press(ESCAPE).await;
    browser.until("!document.querySelector('dialog')").await;
    let back = browser
        .value("[document.activeElement.className, document.activeElement.closest('.job')?.id]");
    assert_eq!(back.await, json!(["poster", kite]));

    browser.click(&format!("#{slow} .danger")).await;
    browser.shown("dialog[open] .danger").await;
    browser.click("dialog .danger").await;
    browser
        .until(&format!(
            "document.querySelector('#{slow} .pill').textContent === 'Cancelled'"
        ))
        .await;
    assert_eq!(node.ended(&slow).await["error"]["code"], "cancelled");

    // Deleting asks first, and the harmless answer is the one at hand.
    browser.click(&format!("#{kite} .danger")).await;
    browser.shown("dialog[open]").await;
    browser.press(ENTER).await;
    browser.until("!document.querySelector('dialog')").await;
    assert_eq!(node.get(&format!("/v1/videos/{kite}")).await.0, 200);
    browser.click(&format!("#{kite} .danger")).await;
    browser.click("dialog .danger").await;
    browser
        .until(&format!("!document.getElementById('{kite}')"))
        .await;
    assert_eq!(node.get(&format!("/v1/videos/{kite}")).await.0, 404);
    browser.assert_clean(&[]).await;
}
