//! A small tokenizer of its own for tiny checkpoints.
//!
//! The published vocabulary is too large to ship and not ours to cut down, so tiny checkpoints get a
//! unigram vocabulary made here from short lists: the same on every machine, and read alike by this
//! crate and by transformers' `T5Tokenizer`.

use serde_json::json;

/// Common words of video prompts; each becomes a piece with `▁` in front.
const WORDS: &str = "a about above across after against air all along ambient among an and angle \
    animal another are around arm art artifacts as astronaut at atmosphere autumn back background \
    ball balloon bad beach beam bear beautiful before behind being below beneath beside best between \
    bicycle big bird black blue blurry boat body book both bottom box boy branch bread bridge bright \
    bronze brown building bus but butterfly by calm camera candle car cat chair child cinematic city \
    clear clip clock close cloud clouds coast coffee cold color colorful colors composition contrast \
    corner could couple cup curtain dance dancing dark dawn day deep deformed depth desert detail \
    detailed details dog door down dragon dress drone dusk dust each early earth elderly elephant \
    empty evening eyes face falling far fast feather features few field film fire fish five floating \
    floor flower flowers flying focus fog foggy for forest four fox frame from front fur garden gentle \
    girl glass glow glowing gold golden grass gray green ground group hair hand hands happy has hat he \
    head her high hill his holding horse house huge human image in inside into is island it its jacket \
    jumping just kitchen lake lamp landscape large late leaf leaves left lens light lighting lights \
    like lion little long look looking low lush man many medium metal middle mirror mist moon more \
    morning motion mountain mountains mouth moving museum music near neon night no nature not ocean of \
    off old on one open orange other out outside over painting palace pan panda paper park passing \
    past path people perfect person photo photorealistic piano picture pink plant plays portrait poor \
    pure purple quality quick quiet rabbit rain rainy realistic red reflection right rising river road \
    robot rock room rooftop rose running sail sand scene sea seen shadow shallow sharp she ship shore \
    shot shoulder side silver single sitting sky slow slowly small smile smiling smoke smooth snow \
    snowy soft some space speaking spring standing star stars static steam still stone storm street \
    studio style summer sun sunlight sunny sunrise sunset surface surreal swimming table tall text the \
    their them then there they this three through tiger time tiny to toward towards tower town tracking \
    traffic train tree trees turn turning turns two under underwater up valley vibrant video view \
    village vivid walk walking walks wall warm watching water watermark wave waves we wears wearing \
    while white wide wild wind window windows winter with woman wood wooden woods worst yellow you \
    young zoom";

/// Pieces of words that are not in the list.
const SUBWORDS: &str = "ab able ac ad age ai al all am an and ar ard at ate ation ay be bl br ch ck \
    cl co com con cr de der di dis dr ea ed ee el em en ence end ent er ere ers es ess est et ex fi fl \
    for fr ful ge gh gr he hi ic ice id ies ig ight il ile im in ing ings ion ir is ish ist it ity ive \
    kn la le less li ll lo ly man me ment mi mo ness ng ni no nt of ol om on oo op or ore ou ough ound \
    our ous out ow pe ph pl pr pre pro qu ra re ri ro se sh si sion so sp ss st str ter th the ther \
    ti tion to tr ture ty ul un ur us ut ve ver vi wa we wh wi wo 00 10 20 24";

/// Two-character pieces of Chinese prompts.
const PAIRS: &str = "色调 艳丽 过曝 静态 细节 模糊 字幕 风格 作品 画作 画面 静止 整体 质量 压缩 残留 丑陋 多余 手指 \
    手部 脸部 畸形 形态 肢体 融合 杂乱 背景 不动 一个 一只 城市 海边 天空 阳光";

/// Characters of Chinese prompts: the official negative prompt, and some common ones.
const HAN: &str = "色调艳丽过曝静态细节模糊不清字幕风格作品画面止整体发灰最差质量低压缩残留丑陋的缺多余\
    手指得好部脸畸形毁容肢融合动杂乱背景三条腿人很倒着走一个只城市海边天空阳光在上下中大小有是了和女男孩狗\
    猫花树山水日月星云雨雪夜红黄蓝绿白黑";

/// Letters beyond ASCII and punctuation that prompts use.
const OTHER: &str = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿœßабвгдежзийклмнопрстуфхцчшщъыьэюя，。、！？：；（）《》…—–·•«»„°×™®©£€¥";

/// Pieces in id order, with their scores.
///
/// Scores are multiples of 1/8, exact in every JSON reader. Each piece costs less than the two halves
/// it could be cut into, so whole words win over parts and parts over letters.
fn pieces() -> Vec<(String, f64)> {
    let mut pieces: Vec<(String, f64)> = ["<pad>", "</s>", "<unk>"]
        .map(|token| (token.to_owned(), 0.0))
        .into();
    let mut push = |piece: String, score: f64| {
        if !pieces.iter().any(|(known, _)| *known == piece) {
            pieces.push((piece, score));
        }
    };
    push("▁".to_owned(), -4.0);
    // Commoner lengths score a little better, so that few cuts of a text tie.
    let score = |base: f64, piece: &str| base - piece.chars().count() as f64 * 0.125;
    for word in WORDS.split_whitespace() {
        push(format!("▁{word}"), score(-6.0, word));
    }
    for part in SUBWORDS.split_whitespace() {
        push(part.to_owned(), score(-7.5, part));
    }
    for pair in PAIRS.split_whitespace() {
        push(pair.to_owned(), score(-8.5, pair));
    }
    let letters = (33..127_u8)
        .map(char::from)
        .chain(OTHER.chars())
        .chain(HAN.chars());
    for (index, letter) in letters.filter(|letter| !letter.is_whitespace()).enumerate() {
        push(letter.to_string(), -9.0 - (index % 16) as f64 * 0.125);
    }
    pieces
}

/// Rows of the text encoder's embedding that this tokenizer needs.
pub fn tiny_vocab_size() -> usize {
    pieces().len()
}

/// The files of the tokenizer folder: name and content.
pub fn tiny_tokenizer_files() -> Vec<(&'static str, String)> {
    let pieces = pieces();
    let special = |id: usize| {
        json!({
            "id": id,
            "content": pieces[id].0,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    };
    let space = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true
    });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let end = json!({ "SpecialToken": { "id": "</s>", "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, space] },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), end],
            "pair": [sequence("A"), end, sequence("B"), end],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
        },
        "decoder": space,
        "model": { "type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": false },
    });
    let special_tokens = json!({ "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>" });
    let config = json!({
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "extra_ids": 0,
        "model_max_length": super::MAX_TOKENS,
    });
    [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special_tokens),
    ]
    .map(|(name, value)| (name, format!("{value:#}\n")))
    .into()
}
