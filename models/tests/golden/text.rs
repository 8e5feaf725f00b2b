//! Prompt cleaning, tokens and UMT5.

use leoma_models::text::{PromptTokenizer, Umt5Encoder, clean_prompt};
use leoma_models::weights::{Checkpoint, Component};
use serde::Deserialize;

use crate::fixture::{self, KINDS, Tensors};
use crate::gate::{COMPONENT, Gate};

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    clean: String,
    tokens: Vec<u32>,
}

#[test]
fn prompts_are_cleaned_tokenised_and_encoded_as_by_the_reference() {
    for kind in KINDS {
        let folder = fixture::folder(kind);
        let prompts: Vec<Prompt> =
            serde_json::from_str(&std::fs::read_to_string(folder.join("prompts.json")).unwrap())
                .unwrap();
        let embeds = Tensors::read(&folder.join("prompts.safetensors"));
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let tokenizer = PromptTokenizer::open(checkpoint.tokenizer_dir()).unwrap();
        let encoder = Umt5Encoder::new(
            checkpoint.text_config(),
            fixture::builder(&checkpoint, Component::TextEncoder),
        )
        .unwrap();

        let mut gate = Gate::new(format!("{kind}, prompts"));
        for (index, case) in prompts.iter().enumerate() {
            let clean = clean_prompt(&case.prompt);
            gate.same(
                &format!("clean.{index}"),
                &[clean.as_str()],
                &[case.clean.as_str()],
            );
            let tokens = tokenizer.encode(&case.clean).unwrap();
            gate.same(&format!("tokens.{index}"), &tokens, &case.tokens);
            let name = format!("embeds.{index}");
            let rows = encoder.forward(&case.tokens).unwrap();
            gate.close(&name, &rows, embeds.get(&name), COMPONENT);
        }
        gate.finish();
    }
}
