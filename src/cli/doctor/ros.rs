//! The environment of ROS 2 and of its middleware.

use super::host::{Host, bytes};
use super::report::Check;
use crate::shared_memory;

/// Distributions that the node is built and tested with.
const DISTRIBUTIONS: &[&str] = &["humble", "jazzy"];
const FAST_DDS: &str = "rmw_fastrtps_cpp";
/// The profile's shared-memory segment of one process, and its socket buffers (config/fastdds.xml),
/// bytes.
const SEGMENT: u64 = 64 << 20;
const BUFFER: u64 = 4 << 20;
/// Highest domain whose ports lie below Linux's ephemeral range, and the highest that there is.
const DOMAIN_SAFE: u32 = 101;
const DOMAIN_MAX: u32 = 232;

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let mut checks = vec![distribution(host), middleware(host), domain(host), discovery(host)];
    if host.variable("RMW_IMPLEMENTATION").is_none_or(|name| name == FAST_DDS) {
        checks.push(profile(host));
    }
    checks.extend([shared_memory(host), segments(host)]);
    checks.extend(["rmem_max", "wmem_max"].map(|name| buffer(host, name)));
    checks
}

fn distribution(host: &Host) -> Check {
    let name = "ROS_DISTRO";
    match host.variable(name) {
        Some(distro) if DISTRIBUTIONS.contains(&distro) => Check::ok(name, distro),
        Some(distro) => Check::warning(
            name,
            distro,
            format!("the node is built for {} only", DISTRIBUTIONS.join(" and ")),
        ),
        None => Check::warning(
            name,
            "not set: no ROS 2 in this shell",
            "source /opt/ros/jazzy/setup.bash (or humble) and the workspace's install/setup.bash",
        ),
    }
}

fn middleware(host: &Host) -> Check {
    let name = "RMW_IMPLEMENTATION";
    match host.variable(name) {
        None => Check::ok(name, format!("not set: the distribution's own, {FAST_DDS}")),
        Some(rmw) if rmw == FAST_DDS => Check::ok(name, rmw),
        Some(rmw) => Check::warning(
            name,
            rmw,
            format!("the node is tested with {FAST_DDS} only; every node must use the same"),
        ),
    }
}

fn domain(host: &Host) -> Check {
    let name = "ROS_DOMAIN_ID";
    let Some(text) = host.variable(name) else {
        return Check::ok(name, "not set: 0, as on every machine that does not set it");
    };
    match text.parse::<u32>() {
        Ok(id) if id <= DOMAIN_SAFE => Check::ok(name, text),
        Ok(id) if id <= DOMAIN_MAX => Check::warning(
            name,
            text,
            format!("its ports may be taken by other programs; use 0..{DOMAIN_SAFE}"),
        ),
        _ => Check::error(
            name,
            format!("'{text}' is none of 0..{DOMAIN_MAX}"),
            format!("set it to 0..{DOMAIN_SAFE}"),
        ),
    }
}

fn discovery(host: &Host) -> Check {
    let name = "discovery";
    let range = host.variable("ROS_AUTOMATIC_DISCOVERY_RANGE");
    let local = host.variable("ROS_LOCALHOST_ONLY");
    let old = host.variable("ROS_DISTRO") == Some("humble");
    match (range, local) {
        (Some(range), _) if old => Check::warning(
            name,
            format!("ROS_AUTOMATIC_DISCOVERY_RANGE={range}"),
            "humble does not read it; set ROS_LOCALHOST_ONLY",
        ),
        (Some(range), Some(local)) if local != "0" => Check::warning(
            name,
            format!("ROS_AUTOMATIC_DISCOVERY_RANGE={range} and ROS_LOCALHOST_ONLY={local}"),
            "the second, deprecated, takes precedence: unset it",
        ),
        (Some("OFF"), _) => Check::error(
            name,
            "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: no other node is found",
            "set it to LOCALHOST or SUBNET",
        ),
        (Some("LOCALHOST"), _) => Check::ok(name, "this machine only"),
        (Some("SUBNET" | "SYSTEM_DEFAULT"), _) => Check::ok(name, "the whole subnet"),
        (Some(other), _) => Check::warning(
            name,
            format!("ROS_AUTOMATIC_DISCOVERY_RANGE={other} is not known"),
            "set it to LOCALHOST or SUBNET",
        ),
        (None, Some("1")) => Check::ok(name, "this machine only (ROS_LOCALHOST_ONLY)"),
        (None, _) => Check::ok(name, "the whole subnet: every machine in this domain can command"),
    }
}

fn profile(host: &Host) -> Check {
    let (name, variable) = ("Fast DDS profile", "FASTRTPS_DEFAULT_PROFILES_FILE");
    let other = "FASTDDS_DEFAULT_PROFILES_FILE";
    let remedy = format!(
        "set {variable} to the installed config/fastdds.xml in every process that publishes or \
        reads raw images: without it most are lost"
    );
    match (host.variable(variable), host.variable(other)) {
        (Some(path), _) => match host.read(path) {
            Some(text) if text.contains("<profiles") || text.contains("<dds") => {
                Check::ok(name, path)
            }
            Some(_) => Check::error(name, format!("{path} holds no profiles"), remedy),
            None => Check::error(name, format!("{path} cannot be read"), remedy),
        },
        (None, Some(path)) => Check::warning(
            name,
            format!("{other}={path}"),
            format!("Fast DDS 2 of humble and jazzy reads {variable} only; {remedy}"),
        ),
        (None, None) => Check::warning(name, "none", remedy),
    }
}

fn shared_memory(host: &Host) -> Check {
    let name = "/dev/shm";
    match host.space(name).filter(|_| host.is_folder(name)) {
        None => Check::error(name, "it does not exist", "mount a tmpfs at /dev/shm"),
        Some(space) if space.free < 2 * SEGMENT => Check::warning(
            name,
            format!("{} free of {}", bytes(space.free), bytes(space.total)),
            "each process needs 64 MiB with the profile, or loses images: give the container \
            --shm-size=512m or --ipc=host",
        ),
        Some(space) => {
            Check::ok(name, format!("{} free of {}", bytes(space.free), bytes(space.total)))
        }
    }
}

fn segments(host: &Host) -> Check {
    let name = "abandoned segments";
    match shared_memory::count_abandoned(&host.path("/dev/shm")) {
        (0, _) => Check::ok(name, "none"),
        (count, size) => Check::warning(
            name,
            format!("{count} of killed processes, {}", bytes(size)),
            "the node removes them when it starts; fastdds shm clean does so now",
        ),
    }
}

fn buffer(host: &Host, name: &str) -> Check {
    let name = format!("net.core.{name}");
    match host.number(format!("/proc/sys/{}", name.replace('.', "/"))) {
        None => Check::warning(name, "cannot be read", "mount /proc"),
        Some(size) if size < BUFFER => Check::warning(
            &name,
            format!("{}, the profile asks for {}", bytes(size), bytes(BUFFER)),
            format!("images from other machines lose fragments: sudo sysctl -w {name}={BUFFER}"),
        ),
        Some(size) => Check::ok(name, bytes(size)),
    }
}
