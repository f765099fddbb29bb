//! The assumptions of a plan in words.

use super::rates::{ChipRates, Figure, ONE_CORE, WeightLayout};
use super::{Assumptions, Flow, HEAD_BLOCKS, MeshKind, OnePass};
use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::Division;

impl Assumptions {
    /// One line of text per assumption.
    #[must_use]
    pub fn lines(&self, policy: &PrecisionPolicy, mesh: MeshKind) -> Vec<String> {
        let mut lines = match self.flow {
            Some(flow) => self.flow_lines(flow),
            None => self.token_lines(),
        };
        lines.extend(self.board_lines(policy, mesh));
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
    fn board_lines(&self, policy: &PrecisionPolicy, mesh: MeshKind) -> Vec<String> {
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
        let (rates, facts) = (ChipRates::of(mesh), mesh.facts());
        let implementation = &self.implementation;
        let (layout, bandwidth) = match implementation.layout {
            WeightLayout::Interleaved => ("interleaved over the banks", rates.dram_interleaved),
            WeightLayout::DramSharded => ("each bank beside its readers", rates.dram_sharded),
        };
        let mut lines = vec![
            format!(
                "arithmetic: {:.1} TFLOP/s per chip and pass ({}x{} cores), divided by the passes \
                of the fidelity; of it {} below 512 rows, {} from there on",
                ChipRates::flop_per_second(mesh) / 1e12,
                facts.grid.0,
                facts.grid.1,
                range(implementation.few_rows, 100.0, "%"),
                range(implementation.many_rows, 100.0, "%"),
            ),
            format!(
                "DRAM: {} per chip, weights {layout}; roofline {:.0} GB/s, specification {:.0}",
                range(bandwidth, 1e-9, "GB/s"),
                self.dram_bytes_per_second.unwrap_or(rates.dram_roofline) / 1e9,
                rates.dram_specified / 1e9
            ),
        ];
        if mesh.chips() > 1 {
            lines.push(format!(
                "between chips: {} per link and direction, {} link{}{}, {} per hop, {}; {payload}",
                range(rates.link, 1e-9, "GB/s"),
                facts.links,
                if facts.links == 1 { "" } else { "s" },
                if facts.ring { " in a ring" } else { "" },
                range(rates.hop, 1e6, "us"),
                if self.serial_collectives {
                    "no overlap with arithmetic"
                } else {
                    "hidden behind arithmetic"
                }
            ));
        }
        lines.extend([
            format!(
                "operations: {} each beyond arithmetic, traffic and collectives; a norm of one row \
                {}, a row into a cache {}, a row folded into tiles or back {}; executed as \
                captured traces (not with --eager)",
                range(implementation.launch, 1e6, "us"),
                range(ONE_CORE.norm, 1e6, "us"),
                range(ONE_CORE.update, 1e6, "us"),
                range(ONE_CORE.fold, 1e6, "us"),
            ),
            format!(
                "vision and projector: {}",
                if policy.split_vision && mesh.chips() > 1 {
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
        ]);
        if self.flow.is_some() && mesh.chips() > 1 {
            let Division { queries, few_rows_queries, few_rows_mlps } = self.division(policy, mesh);
            let over = |divided| if divided { "over the chips" } else { "whole on every chip" };
            lines.push(format!(
                "query heads, which share one key head: language model {}, action expert {}; \
                action expert's MLPs {}",
                over(queries),
                over(few_rows_queries),
                over(few_rows_mlps)
            ));
        }
        let mut sources = vec![
            ("DRAM", bandwidth),
            ("few rows", implementation.few_rows),
            ("many rows", implementation.many_rows),
            ("operations", implementation.launch),
        ];
        if mesh.chips() > 1 {
            sources.extend([("links", rates.link), ("hops", rates.hop)]);
        }
        lines.extend(
            sources.iter().map(|(what, figure)| format!("source for {what}: {}", figure.source)),
        );
        lines
    }
}

/// Lowest, expected and highest value in a unit.
fn range(figure: Figure, factor: f64, unit: &str) -> String {
    let Figure { low, likely, high, .. } = figure;
    let digits = usize::from(likely * factor < 10.0);
    let [low, likely, high] = [low, likely, high].map(|x| format!("{:.digits$}", x * factor));
    format!("{likely} {unit} ({low} to {high})")
}
