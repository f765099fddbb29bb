//! Parts that all HTML pages share. Every page is one file that loads nothing.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plots::Plot;

/// Tables fit a window of 1100 px: the first column and the headers wrap. In narrower windows the
/// surrounding `.wide` scrolls.
const STYLE: &str = "
body{font:15px/1.45 system-ui,'Segoe UI',Roboto,sans-serif;color:#222;max-width:1060px;
margin:24px auto;padding:0 16px}
h1{font-size:24px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:34px 0 8px;border-bottom:1px solid #ddd;padding-bottom:3px}
table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th{font-weight:600;background:#f6f6f6;white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}
td.path{white-space:normal;overflow-wrap:anywhere;min-width:12em}
img{max-width:100%;display:block}
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}
.tile{background:#f6f7f9;border-radius:6px;padding:10px 16px;min-width:120px}
.tile b{display:block;font-size:22px}.tile span{color:#666;font-size:13px}
.bad{background:#fdecea;border-left:4px solid #c0392b}
.note{background:#fff8e1;border-left:4px solid #e0a800}
.bad,.note{padding:6px 12px;margin:6px 0;overflow-wrap:anywhere}
.step{display:grid;grid-template-columns:minmax(0,330px) minmax(0,1fr);gap:18px;
margin:18px 0;padding-top:14px;border-top:1px solid #eee;overflow-wrap:anywhere}
.step td,.step th{padding:1px 8px;font-size:13px}
.muted{color:#777;font-size:13px}.wrong{color:#c0392b}
figure{margin:14px 0}figcaption{color:#666;font-size:13px;overflow-wrap:anywhere}
code{background:#f3f3f3;padding:1px 4px;border-radius:3px}.wide{overflow-x:auto}
";

/// A whole page around a body.
pub fn page(title: &str, body: Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
    .into_string()
}

/// A `data:` URL with the bytes of a file.
pub fn data_url(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes))
}

/// A number, or a dash.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) if value.abs() >= 1e-3 && value.abs() < 1e5 => format!("{value:.4}"),
        Some(value) => format!("{value:.2e}"),
    }
}

/// A share in percent, or a dash.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
}

/// Large values with their names below.
pub fn tiles<'a>(values: impl IntoIterator<Item = (&'a str, String)>) -> Markup {
    html! {
        div.tiles {
            @for (name, value) in values { div.tile { b { (value) } span { (name) } } }
        }
    }
}

/// The header row of a table.
pub fn header(names: &[&str]) -> Markup {
    html! { tr { @for name in names { th { (name) } } } }
}

/// What is missing from a result, then its warnings.
pub fn notes(incomplete: &[String], warnings: &[String]) -> Markup {
    html! {
        @for line in incomplete { div.bad { b { "Incomplete: " } (line) } }
        @for warning in warnings { div.note { (warning) } }
    }
}

/// Plots with their captions.
pub fn figures(plots: &[Plot]) -> Markup {
    html! {
        @for plot in plots {
            figure id=(plot.file) {
                img src=(data_url("image/png", &plot.png)) alt=(plot.caption);
                figcaption { (plot.caption) }
            }
        }
    }
}
