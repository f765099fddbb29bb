//! Processor, memory, clock and real-time limits.

use super::host::{Host, bytes};
use super::report::Check;

/// What the machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Inference on its cores.
    Cpu,
    /// On simulated chips.
    Simulated,
    /// On real ones.
    Silicon,
    /// Not said.
    Any,
}

/// Instruction sets of x86-64-v3, for which the provider of TT-NN is compiled.
const V3: &[&str] = &["avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"];
/// What the CPU backend uses beyond, where it is there (docs/cpu.md).
const FASTER: &[&str] = &["avx512f", "avx512_bf16", "avx512_vnni"];
/// Memory below which the node and a ROS graph do not fit beside each other, bytes.
const MEMORY_MIN: u64 = 1 << 30;

pub(super) fn checks(host: &Host, use_: Use, checkpoint_bytes: Option<u64>) -> Vec<Check> {
    vec![
        processor(host, use_),
        cores(host, use_),
        memory(host, use_, checkpoint_bytes),
        governor(host),
        real_time(host),
    ]
}

/// The value of the first line `field : value` of /proc/cpuinfo.
fn cpuinfo<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(name, _)| name.trim() == field).map(|(_, value)| value.trim()).next()
}

fn processor(host: &Host, use_: Use) -> Check {
    let name = "processor";
    let text = host.read("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo(&text, "model name").or_else(|| cpuinfo(&text, "CPU part"));
    let model = model.unwrap_or("of an unknown model");
    if let Some(features) = cpuinfo(&text, "Features") {
        let features: Vec<&str> = features.split_whitespace().collect();
        let value = format!("{model}, 64-bit ARM");
        return match (features.contains(&"asimd"), use_) {
            (_, Use::Silicon) => {
                Check::error(name, value, "the provider of TT-NN is built for x86-64 only")
            }
            (true, _) => Check::ok(name, value),
            (false, _) => Check::warning(
                name,
                format!("{value} without asimd"),
                "inference on the CPU takes many times as long",
            ),
        };
    }
    let Some(flags) = cpuinfo(&text, "flags") else {
        return Check::warning(
            name,
            "/proc/cpuinfo lists no instruction sets",
            "mount /proc, or run outside of this sandbox, to have them checked",
        );
    };
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let missing: Vec<&str> = V3.iter().filter(|set| !flags.contains(set)).copied().collect();
    let found = V3.iter().take(1).chain(FASTER).filter(|set| flags.contains(set));
    let found = found.copied().collect::<Vec<_>>().join(", ");
    if missing.is_empty() {
        return Check::ok(name, format!("{model}, {found}"));
    }
    let value = format!("{model}, without {}", missing.join(", "));
    if use_ == Use::Silicon {
        let remedy = "the provider of TT-NN is built for x86-64-v3 and would end with an illegal \
            instruction: use another machine";
        return Check::error(name, value, remedy);
    }
    Check::warning(name, value, "inference on the CPU takes many times as long")
}

fn cores(host: &Host, use_: Use) -> Check {
    let text = host.read("/proc/cpuinfo").unwrap_or_default();
    let online = text.lines().filter(|line| line.starts_with("processor")).count();
    // A container's share: "quota period" in microseconds, or "max period".
    let share = host.read("/sys/fs/cgroup/cpu.max").and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|p| 0.0 < *p)?)
    });
    let usable = share.map_or(online as f64, |share| share.min(online as f64));
    let value = match share.filter(|share| *share < online as f64) {
        Some(share) => format!("{online}, of which this container may use {share:.1}"),
        None => format!("{online}"),
    };
    if usable < 2.0 {
        let remedy = "inference and the 50 Hz command loop share it: expect late commands";
        return Check::warning("cores", value, remedy);
    }
    if use_ == Use::Simulated && usable < 8.0 {
        let remedy = "a simulated mesh is for checking numbers, not for speed";
        return Check::warning("cores", value, remedy);
    }
    Check::ok("cores", value)
}

fn memory(host: &Host, use_: Use, checkpoint_bytes: Option<u64>) -> Check {
    let text = host.read("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let (Some(total), Some(free)) = (field("MemTotal"), field("MemAvailable")) else {
        return Check::warning("memory", "/proc/meminfo does not say", "mount /proc");
    };
    let value = format!("{} available of {}", bytes(free), bytes(total));
    if let Some(weights) =
        checkpoint_bytes.filter(|weights| use_ != Use::Silicon && free < *weights)
    {
        let remedy = format!(
            "the checkpoint has {}: its weights would be read from disk again at every inference; \
            close other programs or use a machine with more",
            bytes(weights)
        );
        return Check::warning("memory", value, remedy);
    }
    if free < MEMORY_MIN {
        return Check::warning("memory", value, "close other programs");
    }
    Check::ok("memory", value)
}

fn governor(host: &Host) -> Check {
    let base = "/sys/devices/system/cpu";
    let mut governors: Vec<String> = host
        .list(base)
        .iter()
        .filter(|name| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
        .filter_map(|name| host.read(format!("{base}/{name}/cpufreq/scaling_governor")))
        .collect();
    governors.sort();
    governors.dedup();
    match governors.as_slice() {
        [] => Check::ok("frequency governor", "none is visible, as in a virtual machine"),
        [one] if one == "performance" => Check::ok("frequency governor", one),
        several => Check::warning(
            "frequency governor",
            several.join(", "),
            "inference waits for the clock to rise: sudo cpupower frequency-set -g performance",
        ),
    }
}

fn real_time(host: &Host) -> Check {
    let name = "real-time priority";
    let text = host.read("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max realtime priority"));
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    let hard = words.get(1).or(words.first()).copied();
    if host.is_root() {
        return Check::ok(name, "root may use any");
    }
    let remedy = "without it other processes delay commands: add '@realtime - rtprio 98' to \
        /etc/security/limits.d/realtime.conf, add the user to the group realtime, log in again";
    match hard {
        Some("unlimited") => Check::ok(name, "unlimited"),
        Some(limit) => match limit.parse::<u32>() {
            Ok(0) => Check::warning(name, "RTPRIO limit 0: the control thread gets none", remedy),
            Ok(limit) => Check::ok(name, format!("RTPRIO limit {limit}")),
            Err(_) => Check::warning(name, format!("RTPRIO limit '{limit}' is no number"), remedy),
        },
        None => Check::warning(name, "/proc/self/limits does not say", remedy),
    }
}
