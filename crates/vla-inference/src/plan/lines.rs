//! The assumptions of a plan in words.

use super::{Assumptions, Flow, HEAD_BLOCKS, OnePass};
use crate::backend::precision::{NumberFormat, PrecisionPolicy};

impl Assumptions {
    /// One line of text per assumption.
    #[must_use]
    pub fn lines(&self, policy: &PrecisionPolicy, chips: usize) -> Vec<String> {
        let mut lines = match self.flow {
            Some(flow) => self.flow_lines(flow),
            None => self.token_lines(),
        };
        lines.extend(self.board_lines(policy, chips));
        lines
    }

    fn flow_lines(&self, flow: Flow) -> Vec<String> {
        let Flow { cameras, text, steps } = flow;
        vec![
            format!(
                "{cameras} camera{}, {text} token ids, {} positions, computed as {}; {steps} Euler \
                steps",
                if cameras == 1 { "" } else { "s" },
                self.positions,
                self.rows()
            ),
            "the heads share one key/value head: attention and its projections run whole on every \
            chip, MLPs are sharded"
                .into(),
        ]
    }

    fn token_lines(&self) -> Vec<String> {
        vec![
            format!(
                "{} image{}, {} positions, computed as {}; {}",
                self.images,
                if self.images == 1 { "" } else { "s" },
                self.positions,
                self.rows(),
                match self.one_pass {
                    Some(OnePass { chunk, action_dim, .. }) => format!(
                        "{chunk} x {action_dim} numbers in one pass, attention in both directions"
                    ),
                    None => format!("{} action tokens", self.tokens),
                }
            ),
            match self.one_pass {
                Some(_) => format!("head: regression, {HEAD_BLOCKS} residual blocks, replicated"),
                None => format!("head: {} rows", self.head_rows),
            },
        ]
    }

    /// Rates, and what is left out.
    fn board_lines(&self, policy: &PrecisionPolicy, chips: usize) -> Vec<String> {
        let [prefill, decode] = self.payloads(policy).map(NumberFormat::name);
        let payload = match (self.flow, self.one_pass, self.decode_rows) {
            (Some(_), ..) | (_, Some(_), _) => format!("sums in {prefill}"),
            (.., 1) => format!(
                "prefill carries {prefill}, a decode step one row, reshaped to whole tiles, of \
                {decode}"
            ),
            (.., rows) => {
                format!("prefill carries {prefill}, a decode step {rows} rows of {decode}")
            }
        };
        vec![
            format!(
                "arithmetic: {:.1} TFLOP/s per chip and pass (64 cores, 1 GHz, 8x16x16 per \
                cycle), divided by the passes of the fidelity",
                self.flop_per_second / 1e12
            ),
            format!(
                "DRAM: {:.0} GB/s per chip (288 by specification)",
                self.dram_bytes_per_second / 1e9
            ),
            format!(
                "between chips: {:.1} GB/s per link and direction, one link, {:.1} us per hop, \
                {}; {payload}",
                self.link_bytes_per_second / 1e9,
                self.hop_seconds * 1e6,
                if self.serial_collectives {
                    "no overlap with arithmetic"
                } else {
                    "hidden behind arithmetic"
                }
            ),
            format!(
                "vision and projector: {}",
                if policy.split_vision && chips > 1 {
                    "sharded over the chips, collectives hidden"
                } else {
                    "replicated on every chip"
                }
            ),
            format!("MLP columns per chip padded to a multiple of {}", self.mlp_multiple),
            format!(
                "host: {:.1} ms; activations stay in L1 and are not counted as DRAM traffic",
                self.host_seconds * 1e3
            ),
            if self.flow.is_some() || self.one_pass.is_some() {
                format!(
                    "operations: {:.0} us each beyond the roofline, from the residue of published \
                    Llama-3.1-8B decode layers (0.37 to 0.44 ms for 20 to 24 operations, \
                    tt_transformers PERF.md); executed as captured traces (not with --eager)",
                    self.launch_seconds * 1e6
                )
            } else {
                "no launch overhead between operations: prefill and decode step are executed as \
                captured traces (not with --eager)"
                    .into()
            },
        ]
    }
}
