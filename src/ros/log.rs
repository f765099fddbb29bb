//! Logging through rcutils, so that `--log-level`, the console format and the log files are those
//! of every other node.

use r2r::LogSeverity;

/// What a log line is worth.
#[derive(Debug, Clone, Copy)]
pub(super) enum Severity {
    Debug,
    Info,
    Warn,
    Error,
}

/// Logs one line. Zero bytes, which C strings cannot carry, are left out.
pub(super) fn log(severity: Severity, text: impl AsRef<str>) {
    let severity = match severity {
        Severity::Debug => LogSeverity::Debug,
        Severity::Info => LogSeverity::Info,
        Severity::Warn => LogSeverity::Warn,
        Severity::Error => LogSeverity::Error,
    };
    r2r::log(&text.as_ref().replace('\0', ""), "vla", file!(), line!(), severity);
}

pub(super) fn debug(text: impl AsRef<str>) {
    log(Severity::Debug, text);
}

pub(super) fn info(text: impl AsRef<str>) {
    log(Severity::Info, text);
}

pub(super) fn warn(text: impl AsRef<str>) {
    log(Severity::Warn, text);
}

pub(super) fn error(text: impl AsRef<str>) {
    log(Severity::Error, text);
}
