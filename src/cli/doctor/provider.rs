//! The provider library, what TT-NN needs around it, the checkpoint, and the folders that caches
//! go to.

use std::path::{Path, PathBuf};

use super::host::{Host, bytes};
use super::report::Check;
use vla_inference::backend::tt::{Provider, load_library};
use vla_inference::checkpoint::CheckpointKind;

/// SFPI's compiler below its folder.
const COMPILER: &str = "compiler/bin/riscv-tt-elf-g++";
/// Words that tt-logger knows; it takes any other for info.
const LEVELS: &[&str] = &["trace", "debug", "info", "warn", "error", "critical", "fatal", "off"];
/// Free space that a cache should find, bytes, where no checkpoint says how much it takes.
const FREE_MIN: u64 = 1 << 30;

/// Loads the library, without opening a device.
pub(super) fn library(provider: Provider) -> Check {
    match load_library(provider) {
        Ok(found) => Check::ok(
            "provider",
            format!("{}, ABI {}, {}", found.name, found.abi, found.path.display()),
        ),
        // The text holds its remedy.
        Err(error) => Check::error("provider", error.to_string(), "see docs/silicon.md"),
    }
}

/// What TT-NN reads from the environment, as the provider will find it.
pub(super) fn tt_nn(host: &Host) -> Vec<Check> {
    let mut checks = vec![runtime_root(host), sfpi(host)];
    checks.extend(
        ["TT_METAL_MOCK_CLUSTER_DESC_PATH", "TT_METAL_SIMULATOR", "TT_METAL_SLOW_DISPATCH_MODE"]
            .into_iter()
            .filter_map(|name| Some((name, host.variable(name)?)))
            .map(|(name, value)| {
                Check::error(name, value, "it is for tests without chips or traces: unset it")
            }),
    );
    let level = host.variable("TT_LOGGER_LEVEL").or(host.variable("TT_METAL_LOGGER_LEVEL"));
    if let Some(level) = level.filter(|l| !LEVELS.contains(&l.to_ascii_lowercase().as_str())) {
        let remedy = format!("tt-logger takes it for info: use one of {}", LEVELS.join(", "));
        checks.push(Check::warning("TT_LOGGER_LEVEL", level, remedy));
    }
    checks.push(limit(host));
    checks.push(kernel_cache(host));
    checks
}

fn limit(host: &Host) -> Check {
    let name = "operation limit";
    let variable = "TT_METAL_OPERATION_TIMEOUT_SECONDS";
    let remedy = format!("set {variable} to 30, or unset it");
    match host.variable(variable).map(|text| (text, text.parse::<f64>())) {
        None => Check::ok(name, "30 s, set by the provider"),
        Some((text, Ok(seconds))) if 0.0 < seconds && seconds.is_finite() => {
            Check::ok(name, format!("{text} s"))
        }
        Some((text, Ok(0.0))) => {
            Check::warning(name, format!("{text}: none; a chip that hangs is not noticed"), remedy)
        }
        Some((text, _)) => Check::error(name, format!("'{text}' is no number of seconds"), remedy),
    }
}

fn runtime_root(host: &Host) -> Check {
    let (name, variable) = ("runtime root", "TT_METAL_RUNTIME_ROOT");
    match host.variable(variable) {
        None => Check::ok(name, format!("{variable} is not set: where the provider was built")),
        Some(root) if host.is_folder(Path::new(root).join("tt_metal")) => Check::ok(name, root),
        Some(root) => Check::error(
            name,
            format!("{variable}={root} holds no tt_metal/"),
            "set it to the tt-metal tree, or the wheel's ttnn folder, of the provider's commit",
        ),
    }
}

fn sfpi(host: &Host) -> Check {
    let name = "SFPI compiler";
    let own = host.variable("TT_METAL_RUNTIME_ROOT").map(|root| format!("{root}/runtime/sfpi"));
    let known = own.is_some();
    let folders = own.into_iter().chain(["/opt/tenstorrent/sfpi".to_owned()]);
    let folders: Vec<String> = folders.collect();
    if let Some(found) = folders.iter().find(|f| host.exists(Path::new(f).join(COMPILER))) {
        return Check::ok(name, found);
    }
    let value = format!("not in {}", folders.join(" or "));
    let remedy = "install the SFPI package of the version in tt_metal/sfpi-version (7.17.0)";
    if known {
        return Check::error(name, value, remedy);
    }
    // The tree of the build may have it; only the provider knows that tree.
    Check::warning(name, value, format!("{remedy}, unless the provider's tree has runtime/sfpi"))
}

/// Where compiled kernels go.
fn kernel_cache(host: &Host) -> Check {
    let folder = match (host.variable("TT_METAL_CACHE"), host.variable("HOME")) {
        (Some(folder), _) => PathBuf::from(folder).join("tt-metal-cache"),
        (None, Some(home)) => PathBuf::from(home).join(".cache/tt-metal-cache"),
        (None, None) => PathBuf::from("/tmp/tt-metal-cache"),
    };
    space(host, "kernel cache", &folder, FREE_MIN)
}

/// Space for the cache of packed weights: about as much as the checkpoint.
pub(super) fn weight_cache(host: &Host, folder: &Path, weights: Option<u64>) -> Check {
    space(host, "weight cache", folder, weights.unwrap_or(FREE_MIN))
}

fn space(host: &Host, name: &str, folder: &Path, needed: u64) -> Check {
    let place = folder.display();
    match host.space(folder) {
        None => Check::error(
            name,
            format!("{place}: its file system cannot be read"),
            "name a folder that can be written",
        ),
        Some(space) if space.free < needed => Check::warning(
            name,
            format!("{place}: {} free, about {} needed", bytes(space.free), bytes(needed)),
            "free some, or name another folder",
        ),
        Some(space) => Check::ok(name, format!("{place}: {} free", bytes(space.free))),
    }
}

/// The checkpoint's kind and the bytes of its weights.
pub(super) fn checkpoint(folder: &Path) -> (Check, Option<u64>) {
    let name = "checkpoint";
    let kind = match CheckpointKind::of(folder) {
        Ok(kind) => kind,
        Err(error) => {
            let remedy = "`openvla inspect` reads it whole";
            return (Check::error(name, error.to_string(), remedy), None);
        }
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights: u64 = entries
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "safetensors" || e == "pt"))
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .map(|metadata| metadata.len())
        .sum();
    let value = format!("{kind:?}, {} of weights, {}", bytes(weights), folder.display());
    (Check::ok(name, value), Some(weights))
}
