//! The VAE's weights and activations: the order of allocations is that of [`crate::wan::vae`].
//!
//! Frames pass one at a time. A layer that looks back holds the last two frames it has seen; the first of
//! them is the frame itself, later the two are one tensor.

use std::collections::HashMap;

use leoma_kernels::{Conv3dConfig, memory};

use super::ledger::{Bytes, F32, Layer, Machine};
use crate::wan::VaeConfig;
use crate::wan::vae::geometry::{self, Level};

/// One frame of activations, channels last.
#[derive(Debug, Clone)]
struct Frame {
    bytes: Bytes,
    /// Height and width.
    size: [usize; 2],
    channels: usize,
}

impl Frame {
    fn new(m: &Machine, size: [usize; 2], channels: usize) -> Self {
        Self {
            bytes: m.rows(size[0] * size[1] * channels),
            size,
            channels,
        }
    }

    fn with(&self, bytes: Bytes, channels: usize) -> Self {
        Self {
            bytes,
            size: self.size,
            channels,
        }
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn count(&self) -> usize {
        self.pixels() * self.channels
    }
}

/// What a stream of frames has left behind, by layer.
#[derive(Debug, Default)]
struct State {
    slots: HashMap<Place, (usize, Bytes)>,
    later: bool,
}

/// Level (or part) and layer in it.
type Place = (usize, usize);

const MID: usize = 100;
const ENDS: usize = 101;
/// Layers of a level after its residual blocks.
const RESAMPLE: usize = 100;
const PAIR: usize = 101;

impl State {
    fn push(&mut self, m: &Machine, place: Place, x: &Frame) {
        let held = match self.slots.remove(&place) {
            None => (1, x.bytes.clone()),
            Some((1, _one)) => (2, m.rows(2 * x.count())),
            Some(two) => {
                drop(m.rows(x.count()));
                two
            }
        };
        self.slots.insert(place, held);
    }
}

/// A 3x3x3 convolution that remembers.
fn causal(
    m: &Machine,
    state: &mut State,
    place: Place,
    x: &Frame,
    channels: usize,
    residual: bool,
) -> Frame {
    let y = looking_back(m, x, channels, residual);
    state.push(m, place, x);
    y
}

/// A convolution over a frame and the two before it.
fn looking_back(m: &Machine, x: &Frame, channels: usize, residual: bool) -> Frame {
    // An accelerator wants the three frames in one tensor.
    let _joined = (!m.cpu).then(|| m.rows(3 * x.count()));
    x.with(m.conv(x.pixels(), channels, residual, false), channels)
}

fn residual_block(
    m: &Machine,
    state: &mut State,
    place: Place,
    x: Frame,
    channels: usize,
) -> Frame {
    let h = {
        let normed = Frame::new(m, x.size, x.channels);
        causal(m, state, place, &normed, channels, false)
    };
    // With a shortcut convolution the input stays until the block is done.
    let (_input, shortcut) = if x.channels == channels {
        (None, x)
    } else {
        let shortcut = x.with(m.linear(x.pixels(), channels), channels);
        (Some(x), shortcut)
    };
    let normed = Frame::new(m, h.size, channels);
    drop(h);
    let y = causal(m, state, (place.0, place.1 + 1), &normed, channels, true);
    drop(shortcut);
    y
}

fn mid_block(m: &Machine, state: &mut State, x: Frame) -> Frame {
    let channels = x.channels;
    let x = residual_block(m, state, (MID, 0), x, channels);
    // The model holds this frame until the block is done.
    let _first = x.clone();
    let (pixels, count) = (x.pixels(), x.count());
    let y = {
        let qkv = {
            let _normed = m.rows(count);
            m.linear(pixels, 3 * channels)
        };
        let y = {
            let _contiguous = [m.rows(count), m.rows(count), m.rows(count)];
            m.attention(pixels, pixels, 1, channels)
        };
        let _projected = m.linear(pixels, channels);
        let sum = x.with(m.rows(count), channels);
        drop((qkv, y));
        sum
    };
    drop(x);
    residual_block(m, state, (MID, 2), y, channels)
}

fn head(m: &Machine, state: &mut State, x: Frame, channels: usize) -> Frame {
    let normed = Frame::new(m, x.size, x.channels);
    drop(x);
    causal(m, state, (ENDS, 1), &normed, channels, false)
}

fn conv_cfg(upsample2x: bool) -> Conv3dConfig {
    Conv3dConfig {
        pad: [1; 4],
        upsample2x,
        ..Conv3dConfig::default()
    }
}

/// Loading of convolutions and norms.
struct Layers<'a> {
    m: &'a Machine,
    list: Vec<Layer>,
}

impl Layers<'_> {
    fn conv(&mut self, shape: [usize; 5], cfg: Conv3dConfig) {
        let count = shape.iter().product::<usize>();
        let (m, outputs) = (self.m, shape[0]);
        self.list.push(if m.cpu {
            let summed = if memory::is_doubled(shape, cfg) {
                // Widened, three taps made two along one axis, then along the other.
                let widened = if m.element == F32 { 0 } else { count };
                (widened + count * 2 / 3 + count * 4 / 9) * F32
            } else {
                0
            };
            Layer {
                raw: count * m.element,
                passing: summed,
                held: memory::conv3d_weight(shape, cfg, m.element) + outputs * F32,
            }
        } else {
            Layer::plain(count + outputs, m.element)
        });
    }

    fn causal(&mut self, inputs: usize, outputs: usize) {
        self.conv([outputs, inputs, 3, 3, 3], conv_cfg(false));
    }

    fn norm(&mut self, channels: usize) {
        self.list.push(Layer::plain(channels, self.m.element));
    }

    fn point(&mut self, inputs: usize, outputs: usize) {
        self.list.push(Layer::linear(self.m, inputs, outputs, true));
    }

    fn residual_block(&mut self, inputs: usize, outputs: usize) {
        if inputs != outputs {
            self.point(inputs, outputs);
        }
        self.norm(inputs);
        self.causal(inputs, outputs);
        self.norm(outputs);
        self.causal(outputs, outputs);
    }

    fn mid_block(&mut self, channels: usize) {
        self.residual_block(channels, channels);
        self.norm(channels);
        self.point(channels, 3 * channels);
        self.point(channels, channels);
        self.residual_block(channels, channels);
    }

    fn head(&mut self, inputs: usize, outputs: usize) {
        self.norm(inputs);
        self.causal(inputs, outputs);
    }

    fn resnets(&mut self, level: &Level, count: usize) {
        for j in 0..count {
            let inputs = if j == 0 {
                level.channels_in
            } else {
                level.channels_out
            };
            self.residual_block(inputs, level.channels_out);
        }
    }
}

/// The encoder's layers.
pub(super) fn encoder_layers(m: &Machine, cfg: &VaeConfig) -> Vec<Layer> {
    let mut layers = Layers {
        m,
        list: Vec::new(),
    };
    layers.causal(cfg.in_channels, geometry::encoder_width(cfg));
    for level in geometry::encoder_levels(cfg) {
        layers.resnets(&level, cfg.num_res_blocks);
        if let Some(step) = level.resample {
            let c = level.channels_out;
            layers.conv([c, c, 1, 3, 3], conv_cfg(false));
            if step.temporal {
                layers.conv([c, c, 3, 1, 1], conv_cfg(false));
            }
        }
    }
    let width = geometry::encoder_mid_width(cfg);
    layers.mid_block(width);
    layers.head(width, 2 * cfg.z_dim);
    // Read whole, of which the half that makes the mean is kept.
    layers.point(2 * cfg.z_dim, cfg.z_dim);
    layers.list
}

/// The decoder's layers.
pub(super) fn decoder_layers(m: &Machine, cfg: &VaeConfig) -> Vec<Layer> {
    let mut layers = Layers {
        m,
        list: Vec::new(),
    };
    let width = geometry::decoder_mid_width(cfg);
    layers.point(cfg.z_dim, cfg.z_dim);
    layers.causal(cfg.z_dim, width);
    layers.mid_block(width);
    for level in geometry::decoder_levels(cfg) {
        layers.resnets(&level, cfg.num_res_blocks + 1);
        let Some(step) = level.resample else { continue };
        let c = level.channels_out;
        if step.temporal {
            // Read as one, cut into halves.
            let first = layers.list.len();
            layers.conv([c, c, 3, 1, 1], conv_cfg(false));
            layers.conv([c, c, 3, 1, 1], conv_cfg(false));
            for layer in &mut layers.list[first..] {
                layer.passing += layer.raw;
            }
        }
        layers.conv([step.channels_out, c, 1, 3, 3], conv_cfg(true));
        if cfg.is_residual && level.channels_in != c {
            let places = if step.temporal { 8 } else { 4 };
            layers.list.push(Layer::plain(c * places, size_of::<u32>()));
        }
    }
    layers.head(geometry::decoder_width(cfg), cfg.out_channels);
    layers.list
}

/// Sizes of a clip in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clip {
    pub(super) frames: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// Decodes a clip of latents frame by frame; `sink` stands for what is done with a frame of pixels
/// (`[3, H, W]` f32) before the next is made.
pub(super) fn decode(m: &Machine, cfg: &VaeConfig, clip: Clip, sink: &mut dyn FnMut(usize)) {
    let stride = cfg.spatial_stride();
    let size = [clip.height / stride, clip.width / stride];
    let latents = (clip.frames - 1) / cfg.temporal_stride() + 1;
    let z_count = size[0] * size[1] * cfg.z_dim;
    let mut decoder = Decoder {
        m,
        cfg,
        levels: geometry::decoder_levels(cfg),
        state: State::default(),
        sink,
    };
    for _ in 0..latents {
        let z = {
            let slice = m.f32(z_count);
            let z = if m.element == F32 {
                slice
            } else {
                m.rows(z_count)
            };
            let _scaled = m.rows(z_count);
            drop(z);
            m.rows(z_count)
        };
        decoder.push(size);
        drop(z);
    }
}

struct Decoder<'a> {
    m: &'a Machine,
    cfg: &'a VaeConfig,
    levels: Vec<Level>,
    state: State,
    sink: &'a mut dyn FnMut(usize),
}

impl Decoder<'_> {
    fn push(&mut self, size: [usize; 2]) {
        let m = self.m;
        let width = geometry::decoder_mid_width(self.cfg);
        let x = {
            let x = Frame {
                bytes: m.linear(size[0] * size[1], self.cfg.z_dim),
                size,
                channels: self.cfg.z_dim,
            };
            causal(m, &mut self.state, (ENDS, 0), &x, width, false)
        };
        let x = mid_block(m, &mut self.state, x);
        self.climb(0, x);
        self.state.later = true;
    }

    fn climb(&mut self, i: usize, x: Frame) {
        let m = self.m;
        let Some(level) = self.levels.get(i).copied() else {
            let frame = head(m, &mut self.state, x, self.cfg.out_channels);
            self.pixels(frame);
            return;
        };
        let shortcut = (self.cfg.is_residual && level.resample.is_some()).then(|| x.clone());
        let mut x = x;
        for j in 0..=self.cfg.num_res_blocks {
            x = residual_block(m, &mut self.state, (i, 2 * j), x, level.channels_out);
        }
        let Some(step) = level.resample else {
            return self.climb(i + 1, x);
        };
        let frames = if step.temporal && self.state.later {
            let c = x.channels;
            let frames = vec![looking_back(m, &x, c, false), looking_back(m, &x, c, false)];
            self.state.push(m, (i, RESAMPLE), &x);
            drop(x);
            frames
        } else {
            vec![x]
        };
        for x in frames {
            let size = x.size.map(|side| 2 * side);
            let pixels = size[0] * size[1];
            let residual = shortcut
                .as_ref()
                .map(|input| duplicate(m, input, pixels, level.channels_out));
            let shape = [step.channels_out, level.channels_out, 1, 3, 3];
            let doubled = m.cpu && memory::is_doubled(shape, conv_cfg(true));
            let enlarged = (!m.cpu).then(|| m.rows(pixels * x.channels));
            let larger = Frame {
                bytes: m.conv(pixels, step.channels_out, residual.is_some(), doubled),
                size,
                channels: step.channels_out,
            };
            drop((x, residual, enlarged));
            self.climb(i + 1, larger);
        }
    }

    /// A frame of patches to pixels and out.
    fn pixels(&mut self, frame: Frame) {
        let m = self.m;
        let count = frame.count();
        let wide = m.to_f32(frame.bytes.clone(), count);
        let pixels = m.f32(count);
        drop(wide);
        let clamped = {
            let _floor = m.f32(count);
            m.f32(count)
        };
        drop(pixels);
        (self.sink)(count);
        drop((clamped, frame));
    }
}

/// The shortcut of a decoder level: `pixels` pixels of `channels` channels out of a quarter of them.
fn duplicate(m: &Machine, input: &Frame, pixels: usize, channels: usize) -> Bytes {
    let count = pixels * channels;
    if input.channels == channels {
        return m.rows(count);
    }
    let row = || {
        let _columns = [m.rows(count / 4), m.rows(count / 4)];
        m.rows(count / 2)
    };
    let _rows = [row(), row()];
    m.rows(count)
}

/// Encodes a clip whose frames after the first are all grey; the latents `[z, T, h, w]` f32.
pub(super) fn encode(m: &Machine, cfg: &VaeConfig, clip: Clip) -> Bytes {
    let picture = clip.height * clip.width * 3;
    let _zeros = m.f32(picture);
    let stride = cfg.spatial_stride();
    let z_count = clip.height / stride * (clip.width / stride) * cfg.z_dim;
    let mut encoder = Encoder {
        m,
        cfg,
        levels: geometry::encoder_levels(cfg),
        state: State::default(),
        runs: Vec::new(),
    };
    encoder.runs.resize_with(encoder.levels.len(), Run::default);
    let mut latents = Vec::new();
    for index in 0..clip.frames {
        let cast = (m.element != F32).then(|| m.rows(picture));
        let patch = geometry::patch(cfg);
        let size = [clip.height / patch, clip.width / patch];
        let patches = Frame::new(m, size, cfg.in_channels);
        if let Some(mean) = encoder.push(&patches, index > 1) {
            let wide = m.to_f32(mean.bytes.clone(), z_count);
            let _centred = m.f32(z_count);
            drop(wide);
            latents.push(m.f32(z_count));
        }
        drop(cast);
    }
    // Joined, then reordered.
    let _joined = m.f32(z_count * latents.len());
    m.f32(z_count * latents.len())
}

#[derive(Debug, Default)]
struct Run {
    repeats: usize,
    output: Option<Frame>,
    emitted: bool,
}

struct Encoder<'a> {
    m: &'a Machine,
    cfg: &'a VaeConfig,
    levels: Vec<Level>,
    state: State,
    runs: Vec<Run>,
}

impl Encoder<'_> {
    fn push(&mut self, x: &Frame, again: bool) -> Option<Frame> {
        let m = self.m;
        let mut again = again;
        let mut x = x.clone();
        for i in 0..self.levels.len() {
            let level = self.levels[i];
            let temporal = level.resample.is_some_and(|step| step.temporal);
            let convs = 2 * self.cfg.num_res_blocks + usize::from(i == 0);
            let reach = 2 * convs + 3 * usize::from(temporal);
            let mut run = std::mem::take(&mut self.runs[i]);
            run.repeats = if again { run.repeats + 1 } else { 0 };
            if run.repeats > reach {
                run.emitted = !(temporal && run.emitted);
            } else {
                if i == 0 {
                    let width = geometry::encoder_width(self.cfg);
                    x = causal(m, &mut self.state, (ENDS, 0), &x, width, false);
                }
                again = false;
                let output = self.level(i, level, x);
                run.emitted = output.is_some();
                run.output = output.or(run.output.take());
            }
            let emitted = run.output.clone().filter(|_| run.emitted);
            if run.repeats == 0 && emitted.is_some() {
                run.output = None;
            }
            self.runs[i] = run;
            x = emitted?;
        }
        let z = self.cfg.z_dim;
        let x = mid_block(m, &mut self.state, x);
        let x = head(m, &mut self.state, x, 2 * z);
        let mean = x.with(m.linear(x.pixels(), z), z);
        self.state.later = true;
        Some(mean)
    }

    fn level(&mut self, i: usize, level: Level, x: Frame) -> Option<Frame> {
        let m = self.m;
        let residual = if self.cfg.is_residual {
            self.average(i, level, &x)
        } else {
            None
        };
        let mut x = x;
        for j in 0..self.cfg.num_res_blocks {
            x = residual_block(m, &mut self.state, (i, 2 * j), x, level.channels_out);
        }
        let Some(step) = level.resample else {
            return Some(match residual {
                Some(_) => x.with(m.rows(x.count()), x.channels),
                None => x,
            });
        };
        let half = x.size.map(|side| side / 2);
        let (c, pixels) = (level.channels_out, half[0] * half[1]);
        let frame = |bytes| Frame {
            bytes,
            size: half,
            channels: c,
        };
        if !step.temporal {
            return Some(frame(m.conv(pixels, c, residual.is_some(), false)));
        }
        let smaller = frame(m.conv(pixels, c, false, false));
        let place = (i, RESAMPLE);
        let complete = self
            .state
            .slots
            .get(&place)
            .is_some_and(|(held, _)| *held == 2);
        let y = if !self.state.later {
            match residual {
                Some(_) => frame(m.rows(pixels * c)),
                None => smaller.clone(),
            }
        } else if complete {
            let y = looking_back(m, &smaller, c, residual.is_some());
            self.state.slots.remove(&place);
            y
        } else {
            self.state.push(m, place, &smaller);
            return None;
        };
        self.state.push(m, place, &smaller);
        Some(y)
    }

    /// The shortcut around a level.
    fn average(&mut self, i: usize, level: Level, x: &Frame) -> Option<Bytes> {
        let m = self.m;
        let space = if level.resample.is_some() { 4 } else { 1 };
        let temporal = level.resample.is_some_and(|step| step.temporal);
        let made = x.pixels() / space * level.channels_out;
        if !temporal {
            if space == 1 && x.channels == level.channels_out {
                return Some(x.bytes.clone());
            }
            return Some(mean(m, x.count(), made));
        }
        let earlier = match self.state.slots.remove(&(i, PAIR)) {
            Some((_, earlier)) => earlier,
            None if !self.state.later => m.rows(x.count()),
            None => {
                self.state.slots.insert((i, PAIR), (1, x.bytes.clone()));
                return None;
            }
        };
        let _joined = m.rows(2 * x.count());
        let made = mean(m, 2 * x.count(), made);
        drop(earlier);
        Some(made)
    }
}

/// Means of groups: `count` values to `made`.
fn mean(m: &Machine, count: usize, made: usize) -> Bytes {
    let ordered = m.rows(count);
    let wide = m.to_f32(ordered.clone(), count);
    let means = m.f32(made);
    drop((wide, ordered));
    if m.element == F32 {
        return means;
    }
    m.rows(made)
}
