//! Whether a prompt asks for a scene in which nothing moves: then a clip that stands still is no damage.

/// Phrases with which prompts ask for a scene without motion. "static camera" and "static shot" are not
/// among them: they ask for a still camera, before which things move.
const STILLNESS: [&str; 14] = [
    "still image",
    "still photo",
    "still life",
    "still frame",
    "completely still",
    "perfectly still",
    "motionless",
    "no motion",
    "no movement",
    "nothing moves",
    "without any movement",
    "frozen in time",
    "freeze frame",
    "static scene",
];

/// What may stand still, or be missing, while the scene moves: "the camera stays motionless", "no motion blur".
const NOT_THE_SCENE: [&str; 4] = ["camera", "background", "tripod", "blur"];

/// Whether a prompt asks for a scene that does not move. English phrases only; when in doubt, no. A clause about the
/// camera, the background or blur is not about the scene.
pub fn asks_for_stillness(prompt: &str) -> bool {
    let has = |clause: &str, words: &[&str]| words.iter().any(|word| clause.contains(word));
    prompt
        .to_lowercase()
        .split(['.', ',', ';', ':', '!', '?', '\n'])
        .any(|clause| has(clause, &STILLNESS) && !has(clause, &NOT_THE_SCENE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_still_scene_is_asked_for_by_name() {
        for prompt in [
            "A Still Life with pears, nothing moves",
            "A market square frozen in time. The camera glides through it.",
            "The camera circles a pond; the water is completely still",
        ] {
            assert!(asks_for_stillness(prompt), "{prompt}");
        }
    }

    #[test]
    fn a_still_camera_is_no_still_scene() {
        for prompt in [
            "A dog runs; static camera, still water",
            "A dog runs while the camera stays motionless",
            "A dog runs. No movement of the camera.",
            "A runner in sharp focus, no motion blur",
            "The dancer turns, the background is motionless",
            "",
        ] {
            assert!(!asks_for_stillness(prompt), "{prompt}");
        }
    }
}
