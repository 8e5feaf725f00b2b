//! The shortcuts around the levels of VAE 2.2, which have no parameters.
//!
//! [`AvgDown3d`]: channel o of the result is the mean of the g values with flattened index
//! `((c*ft + a)*fs + b)*fs + e` in `o*g .. (o+1)*g`, where (a, b, e) is the place inside a block of
//! ft x fs x fs pixels and g = C*ft*fs*fs / C'.
//!
//! [`DupUp3d`]: channel o at place (a, b, e) of the enlarged block is input channel `q / rep`, where
//! `q = ((o*ft + a)*fs + b)*fs + e` and rep = C'*ft*fs*fs / C.

use candle_core::{D, DType, Device, Result, Tensor};

use super::blocks::{Slots, State};

/// Means over blocks of pixels (and frames) and groups of channels.
#[derive(Debug)]
pub(super) struct AvgDown3d {
    channels_out: usize,
    factor_s: usize,
    /// Where the first frame of a pair waits, when time is halved too.
    pair: Option<usize>,
}

impl AvgDown3d {
    /// `channels_in * ft * fs^2` must be a multiple of `channels_out`.
    pub(super) fn new(
        channels_out: usize,
        temporal: bool,
        spatial: bool,
        slots: &mut Slots,
    ) -> Self {
        Self {
            channels_out,
            factor_s: if spatial { 2 } else { 1 },
            pair: temporal.then(|| slots.take()),
        }
    }

    /// x [1, H, W, C] -> [1, H/fs, W/fs, C'], or nothing when the frame is the first of a pair.
    pub(super) fn forward(&self, x: &Tensor, state: &mut State) -> Result<Option<Tensor>> {
        let Some(slot) = self.pair else {
            return self.mean(x).map(Some);
        };
        let earlier = match state.take(slot) {
            Some(earlier) => earlier,
            // The first frame is paired with a zero frame in front, which takes part in the mean.
            None if state.first => x.zeros_like()?,
            None => {
                state.put(slot, x.clone());
                return Ok(None);
            }
        };
        self.mean(&Tensor::cat(&[&earlier, x], 0)?).map(Some)
    }

    /// x [ft, H, W, C] -> [1, H/fs, W/fs, C']
    fn mean(&self, x: &Tensor) -> Result<Tensor> {
        let (ft, height, width, c) = x.dims4()?;
        let fs = self.factor_s;
        let group = c * ft * fs * fs / self.channels_out;
        if group == 1 && ft * fs == 1 {
            return Ok(x.clone());
        }
        let (h, w) = (height / fs, width / fs);
        // [a, h, b, w, e, c] -> [h, w, c, a, b, e] -> [1, h, w, C', g]
        let x = x
            .reshape((ft, h, fs, w, fs, c))?
            .permute((1, 3, 5, 0, 2, 4))?;
        let x = x.reshape((1, h, w, self.channels_out, group))?;
        // The sum is taken in float32 whatever the type.
        x.to_dtype(DType::F32)?.mean(D::Minus1)?.to_dtype(x.dtype())
    }
}

/// Copies of pixels (and frames), with the channels spread over the copies.
#[derive(Debug)]
pub(super) struct DupUp3d {
    factor_t: usize,
    /// Input channel of each output channel, per place `(a*fs + b)*fs + e`; none when every place takes
    /// channel o from channel o.
    channels: Option<Vec<Tensor>>,
}

/// Enlargement in height and width: every level with this shortcut doubles both.
const FACTOR_S: usize = 2;

impl DupUp3d {
    /// `channels_out * ft * fs^2` must be a multiple of `channels_in`.
    pub(super) fn new(
        channels_in: usize,
        channels_out: usize,
        temporal: bool,
        device: &Device,
    ) -> Result<Self> {
        let factor_t = if temporal { 2 } else { 1 };
        let places = factor_t * FACTOR_S * FACTOR_S;
        let repeats = channels_out * places / channels_in;
        if channels_in == channels_out {
            return Ok(Self {
                factor_t,
                channels: None,
            });
        }
        let source = |place: usize| {
            let channels = (0..channels_out).map(|o| ((o * places + place) / repeats) as u32);
            Tensor::from_iter(channels, device)
        };
        let channels = (0..places).map(source).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            factor_t,
            channels: Some(channels),
        })
    }

    /// x [1, h, w, C] -> output frame `frame` (below ft) of those that x turns into: [1, 2h, 2w, C']. The
    /// first frame of a stream turns into its last copy only.
    pub(super) fn forward(&self, x: &Tensor, frame: usize, state: &State) -> Result<Tensor> {
        let a = if state.first {
            self.factor_t - 1
        } else {
            frame
        };
        let (_, h, w, c) = x.dims4()?;
        let Some(channels) = &self.channels else {
            // [h, 1, w, 1, C] -> [h, b, w, e, C] -> [1, 2h, 2w, C]
            let x = x
                .reshape((h, 1, w, 1, c))?
                .broadcast_as((h, FACTOR_S, w, FACTOR_S, c))?;
            return x.contiguous()?.reshape((1, h * FACTOR_S, w * FACTOR_S, c));
        };
        let x = x.squeeze(0)?;
        let row = |b: usize| {
            let first = (a * FACTOR_S + b) * FACTOR_S;
            let places = channels[first..first + FACTOR_S].iter();
            let columns = places
                .map(|from| x.index_select(from, 2))
                .collect::<Result<Vec<_>>>()?;
            // e x [h, w, C'] -> [h, w, e, C']
            Tensor::stack(&columns, 2)
        };
        let rows = (0..FACTOR_S).map(row).collect::<Result<Vec<_>>>()?;
        // b x [h, w, e, C'] -> [h, b, w, e, C'] -> [1, 2h, 2w, C']
        Tensor::stack(&rows, 1)?.reshape((1, h * FACTOR_S, w * FACTOR_S, ()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    /// [f, h, w, c] with distinct integer values, exact in float32.
    fn counted(f: usize, h: usize, w: usize, c: usize) -> Tensor {
        let values = (0..f * h * w * c).map(|i| ((i * 37) % 1009) as f32);
        Tensor::from_iter(values, &Device::Cpu)
            .unwrap()
            .reshape((f, h, w, c))
            .unwrap()
    }

    fn at(x: &Tensor) -> Vec<Vec<Vec<Vec<f32>>>> {
        (0..x.dim(0).unwrap())
            .map(|t| x.get(t).unwrap().to_vec3().unwrap())
            .collect()
    }

    #[test]
    fn avg_down_is_the_mean_over_flattened_groups() {
        for (ci, co, ft, fs) in [
            (6, 6, 1, 2),
            (6, 12, 2, 2),
            (8, 4, 1, 1),
            (4, 4, 2, 1),
            (3, 3, 2, 2),
        ] {
            let x = counted(3, 4, 6, ci);
            let mut slots = Slots::default();
            let down = AvgDown3d::new(co, ft == 2, fs == 2, &mut slots);
            let mut state = State::new(&slots);
            let mut found = Vec::new();
            for t in 0..3 {
                let y = down
                    .forward(&x.narrow(0, t, 1).unwrap(), &mut state)
                    .unwrap();
                found.extend(y.iter().flat_map(at));
                state.first = false;
            }
            let input = at(&x);
            let g = ci * ft * fs * fs / co;
            assert_eq!(found.len(), if ft == 2 { 2 } else { 3 });
            for (t, frame) in found.iter().enumerate() {
                for (y, row) in frame.iter().enumerate() {
                    for (x, pixel) in row.iter().enumerate() {
                        for o in 0..co {
                            let mut sum = 0.0;
                            for q in o * g..(o + 1) * g {
                                let (e, b) = (q % fs, q / fs % fs);
                                let (a, c) = (q / (fs * fs) % ft, q / (fs * fs * ft));
                                // The zero frame in front shifts time by ft - 1.
                                if let Some(t) = (t * ft + a).checked_sub(ft - 1) {
                                    sum += input[t][y * fs + b][x * fs + e][c];
                                }
                            }
                            assert!(
                                (pixel[o] - sum / g as f32).abs() < 1e-3,
                                "{ci} {co} {ft} {fs}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn dup_up_reads_the_channel_of_the_formula() {
        let fs = 2;
        for (ci, co, ft) in [
            (6, 6, 2),
            (6, 3, 1),
            (6, 12, 2),
            (8, 2, 2),
            (4, 4, 1),
            (8, 6, 2),
        ] {
            let x = counted(1, 2, 3, ci);
            let up = DupUp3d::new(ci, co, ft == 2, &Device::Cpu).unwrap();
            let mut state = State::new(&Slots::default());
            let rep = co * ft * fs * fs / ci;
            let input = at(&x).remove(0);
            for first in [true, false] {
                state.first = first;
                for frame in 0..if first { 1 } else { ft } {
                    let a = if first { ft - 1 } else { frame };
                    let found = at(&up.forward(&x, frame, &state).unwrap()).remove(0);
                    for (y, row) in found.iter().enumerate() {
                        for (x, pixel) in row.iter().enumerate() {
                            for o in 0..co {
                                let q = ((o * ft + a) * fs + y % fs) * fs + x % fs;
                                assert_eq!(pixel[o], input[y / fs][x / fs][q / rep]);
                            }
                        }
                    }
                }
            }
        }
    }
}
