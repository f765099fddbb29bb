//! Checks on made-up machines: in order, with something missing, with something wrong.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::host::Host;
use super::machine::{self, Use};
use super::report::{Check, Level};
use super::{provider, ros, tenstorrent};

const N300: &str = "/sys/class/tenstorrent/tenstorrent!0";
const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
const ROOT: &str = "TT_METAL_RUNTIME_ROOT";
const LIMIT: &str = "TT_METAL_OPERATION_TIMEOUT_SECONDS";

/// A made-up machine.
struct Machine(tempfile::TempDir);

impl Machine {
    fn with(files: &[(&str, &str)]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| machine.write(path, text));
        machine
    }

    /// A host with an N300 in order.
    fn with_n300() -> Self {
        Self::with(&[
            ("/sys/module/tenstorrent/version", "2.5.0\n"),
            ("/dev/tenstorrent/0", ""),
            ("/dev/tenstorrent/by-id", ""),
            (&format!("{N300}/tt_card_type"), "n300\n"),
            (&format!("{N300}/tt_fw_bundle_ver"), "19.2.0.0\n"),
            (PAGES, "4\n"),
            ("/proc/mounts", "none /dev/hugepages-1G hugetlbfs rw,pagesize=1024M 0 0\n"),
        ])
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.path().join(path.trim_start_matches('/'))).unwrap();
    }

    fn host(&self) -> Host {
        self.host_with(&[])
    }

    fn host_with(&self, variables: &[(&str, &str)]) -> Host {
        Host::below(self.0.path(), variables)
    }
}

/// The check of that name is at this level, its line holds the text, and an error has a remedy.
fn is(checks: &[Check], name: &str, level: Level, text: &str) {
    let named = checks.iter().find(|check| check.name == name);
    let check = named.unwrap_or_else(|| panic!("no check '{name}' in {checks:?}"));
    let remedy = check.remedy.clone().unwrap_or_default();
    let all = format!("{}; {remedy}", check.value);
    assert!(check.level == level && all.contains(text), "not {level:?} '{text}': {check:?}");
    assert_eq!(check.level == Level::Ok, remedy.is_empty(), "{check:?}");
}

/// Every check is at this level.
fn all(checks: &[Check], level: Level) {
    assert!(checks.iter().all(|check| check.level == level), "{checks:?}");
}

#[test]
fn a_card_in_order_has_no_remark() {
    let machine = Machine::with_n300();
    let checks = tenstorrent::checks(&machine.host(), Some("n300"));
    all(&checks, Level::Ok);
    is(&checks, "driver (tt-kmd)", Level::Ok, "2.5.0");
    is(&checks, "card 0", Level::Ok, "n300, firmware 19.2.0.0");
    is(&checks, "1 GiB huge pages", Level::Ok, "4, 2 needed, mounted at /dev/hugepages-1G");
    // One chip of it will do.
    all(&tenstorrent::checks(&machine.host(), Some("n150")), Level::Ok);
    all(&tenstorrent::checks(&machine.host(), None), Level::Ok);
}

#[test]
fn a_machine_without_cards_is_an_error_only_where_one_is_wanted() {
    let machine = Machine::with(&[]);
    let checks = tenstorrent::checks(&machine.host(), None);
    assert!(checks.len() == 1 && checks[0].level == Level::Ok, "{checks:?}");
    let checks = tenstorrent::checks(&machine.host(), Some("n300"));
    is(&checks, "driver (tt-kmd)", Level::Error, "modprobe tenstorrent");
    is(&checks, "/dev/tenstorrent", Level::Error, "lspci -d 1e52:");
    // The driver without a card.
    machine.write("/sys/module/tenstorrent/version", "2.5.0");
    let checks = tenstorrent::checks(&machine.host(), None);
    is(&checks, "/dev/tenstorrent", Level::Error, "no device");
}

#[test]
fn the_board_must_be_there() {
    let machine = Machine::with_n300();
    let checks = tenstorrent::checks(&machine.host(), Some("t3k"));
    is(&checks, "/dev/tenstorrent", Level::Error, "tt:t3k needs 4");
    for device in 1..4 {
        let card = format!("/sys/class/tenstorrent/tenstorrent!{device}");
        machine.write(&format!("/dev/tenstorrent/{device}"), "");
        machine.write(&format!("{card}/tt_card_type"), "n300");
        machine.write(&format!("{card}/tt_fw_bundle_ver"), "19.2.0.0");
    }
    let checks = tenstorrent::checks(&machine.host(), Some("t3k"));
    is(&checks, "/dev/tenstorrent", Level::Ok, "device 0, 1, 2, 3");
    is(&checks, "1 GiB huge pages", Level::Warning, "4, 8 needed");
    let machine = Machine::with_n300();
    let checks = tenstorrent::checks(&machine.host(), Some("p150"));
    is(&checks, "card 0", Level::Error, "tt:p150 needs p150 or p300");
    let checks = tenstorrent::checks(&machine.host(), Some("galaxy"));
    is(&checks, "/dev/tenstorrent", Level::Warning, "not known how many");
    let hidden = machine.host_with(&[("TT_VISIBLE_DEVICES", "3")]);
    let checks = tenstorrent::checks(&hidden, Some("n300"));
    is(&checks, "/dev/tenstorrent", Level::Error, "TT_VISIBLE_DEVICES=3; tt:n300 needs 1");
}

#[test]
fn device_files_must_be_open_to_the_user() {
    let machine = Machine::with_n300();
    let file = machine.0.path().join("dev/tenstorrent/0");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let other = fs::metadata(&file).unwrap().uid() + 1;
    let checks = tenstorrent::checks(&machine.host().of_user(other), Some("n300"));
    is(&checks, "/dev/tenstorrent", Level::Error, "not readable and writable by this user: 0");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    all(&tenstorrent::checks(&machine.host().of_user(other), Some("n300")), Level::Ok);
}

#[test]
fn versions_of_driver_and_firmware_are_compared() {
    let machine = Machine::with_n300();
    let driver = |version: &str, level, text| {
        machine.write("/sys/module/tenstorrent/version", version);
        is(&tenstorrent::checks(&machine.host(), None), "driver (tt-kmd)", level, text);
    };
    driver("1.34", Level::Warning, "older than 2.0.0");
    driver("2.0.0-rc1", Level::Ok, "2.0.0-rc1");
    driver("\u{7}?", Level::Warning, "cannot be read");
    let firmware = |version: &str, level, text| {
        machine.write(&format!("{N300}/tt_fw_bundle_ver"), version);
        is(&tenstorrent::checks(&machine.host(), Some("n300")), "card 0", level, text);
    };
    firmware("18.2.9.0", Level::Error, "older than 18.3.0");
    firmware("18.12.0.0", Level::Ok, "18.12.0.0");
    firmware("19.5.0.0", Level::Warning, "newer than 19.4.0");
    firmware("", Level::Warning, "tt-smi -ls");
    firmware("x.y", Level::Warning, "cannot be read");
}

#[test]
fn huge_pages_are_needed_without_an_iommu() {
    let machine = Machine::with_n300();
    let pages = |text: &str, level, wanted| {
        machine.write(PAGES, text);
        let checks = tenstorrent::checks(&machine.host(), Some("n300"));
        is(&checks, "1 GiB huge pages", level, wanted);
    };
    pages("1", Level::Warning, "1, 2 needed");
    pages("0", Level::Error, "tenstorrent-hugepages.service");
    machine.write(&format!("{N300}/device/iommu_group/type"), "DMA-FQ\n");
    pages("0", Level::Ok, "with the IOMMU none are needed");
    machine.write("/sys/module/tenstorrent/version", "1.28.0");
    let checks = tenstorrent::checks(&machine.host(), Some("n300"));
    is(&checks, "driver (tt-kmd)", Level::Error, "with an IOMMU at least 1.29.0");
    machine.write(&format!("{N300}/device/iommu_group/type"), "identity\n");
    machine.write("/proc/mounts", "none /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n");
    pages("4", Level::Error, "no hugetlbfs of that size");
    machine.remove(PAGES);
    let checks = tenstorrent::checks(&machine.host(), Some("n300"));
    is(&checks, "1 GiB huge pages", Level::Error, "0, 2 needed");
}

const CPUINFO: &str = "processor\t: 0\nmodel name\t: Test\nflags\t\t: fpu avx2 bmi1 bmi2 f16c fma \
    movbe avx512f\n\nprocessor\t: 1\nmodel name\t: Test\nflags\t\t: fpu\n";
const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
    Max realtime priority     0                    98                   \n";

#[test]
fn processor_memory_clock_and_limits() {
    let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    let machine = Machine::with(&[
        ("/proc/cpuinfo", CPUINFO),
        ("/proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n"),
        ("/proc/self/limits", LIMITS),
        (governor, "performance\n"),
    ]);
    let user = |machine: &Machine| machine.host().of_user(1000);
    let checks = machine::checks(&user(&machine), Use::Silicon, Some(15 << 30));
    all(&checks, Level::Ok);
    is(&checks, "processor", Level::Ok, "Test, avx2, avx512f");
    is(&checks, "real-time priority", Level::Ok, "RTPRIO limit 98");
    is(&checks, "memory", Level::Ok, "16.0 GiB available of 32.0 GiB");

    machine.write(governor, "powersave");
    machine.write("/proc/self/limits", &LIMITS.replace("98", "0 "));
    machine.write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    machine.write("/proc/cpuinfo", &CPUINFO.replace("avx2 ", ""));
    let checks = machine::checks(&user(&machine), Use::Cpu, Some(17 << 30));
    is(&checks, "frequency governor", Level::Warning, "cpupower frequency-set -g performance");
    is(&checks, "real-time priority", Level::Warning, "@realtime - rtprio 98");
    is(&checks, "cores", Level::Warning, "2, of which this container may use 1.5");
    is(&checks, "memory", Level::Warning, "the checkpoint has 17.0 GiB");
    is(&checks, "processor", Level::Warning, "without avx2");
    is(&machine::checks(&machine.host(), Use::Cpu, None), "real-time priority", Level::Ok, "root");
    let checks = machine::checks(&user(&machine), Use::Silicon, None);
    is(&checks, "processor", Level::Error, "illegal instruction");

    machine.write("/proc/cpuinfo", "processor : 0\nFeatures : fp asimd\nCPU part : 0xd42\n");
    let processor = |use_| machine::checks(&user(&machine), use_, None);
    is(&processor(Use::Cpu), "processor", Level::Ok, "64-bit ARM");
    is(&processor(Use::Silicon), "processor", Level::Error, "x86-64 only");
    let nothing = Machine::with(&[]);
    let checks = machine::checks(&user(&nothing), Use::Any, None);
    for name in ["processor", "memory", "real-time priority"] {
        is(&checks, name, Level::Warning, "/proc");
    }
}

#[test]
fn what_tt_nn_needs_is_found_or_named() {
    let machine = Machine::with(&[
        ("/opt/tt-metal/tt_metal/sfpi-version", ""),
        ("/opt/tt-metal/runtime/sfpi/compiler/bin/riscv-tt-elf-g++", ""),
    ]);
    let of = |variables: &[(&str, &str)]| provider::tt_nn(&machine.host_with(variables));
    let good = [(ROOT, "/opt/tt-metal"), ("HOME", "/home/robot")];
    let checks = of(&good);
    is(&checks, "runtime root", Level::Ok, "/opt/tt-metal");
    is(&checks, "SFPI compiler", Level::Ok, "/opt/tt-metal/runtime/sfpi");
    is(&checks, "operation limit", Level::Ok, "30 s");
    assert!(checks.iter().any(|c| c.value.starts_with("/home/robot/.cache/tt-metal-cache: ")));

    is(&of(&[(ROOT, "/opt")]), "runtime root", Level::Error, "TT_METAL_RUNTIME_ROOT=/opt holds no");
    is(&of(&[(ROOT, "/opt")]), "SFPI compiler", Level::Error, "/opt/tenstorrent/sfpi");
    // Unset, the provider's own tree is not known here.
    is(&of(&[]), "runtime root", Level::Ok, "where the provider was built");
    is(&of(&[]), "SFPI compiler", Level::Warning, "unless the provider's tree");
    for (limit, level) in [("5", Level::Ok), ("0", Level::Warning), ("x", Level::Error)] {
        is(&of(&[(LIMIT, limit)]), "operation limit", level, limit);
    }
    is(&of(&[("TT_LOGGER_LEVEL", "warning")]), "TT_LOGGER_LEVEL", Level::Warning, "for info");
    let mock = "TT_METAL_MOCK_CLUSTER_DESC_PATH";
    is(&of(&[(mock, "/n300.yaml")]), mock, Level::Error, "unset it");
}

#[test]
fn space_for_caches_is_compared_with_the_weights() {
    let machine = Machine::with(&[]);
    let folder = Path::new("/cache/not/yet/made");
    let cache = |needed| provider::weight_cache(&machine.host(), folder, Some(needed));
    assert_eq!(cache(0).level, Level::Ok);
    let full = cache(u64::MAX);
    assert!(full.level == Level::Warning && full.value.contains("free, about"), "{full:?}");
}

#[test]
fn checkpoints_are_named_or_refused() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openvla_tiny/ckpt");
    let (check, weights) = provider::checkpoint(&kit);
    assert!(check.level == Level::Ok && check.value.starts_with("OpenVla, "), "{check:?}");
    assert!(weights.is_some_and(|bytes| 1 << 20 < bytes), "{weights:?}");
    let empty = tempfile::tempdir().unwrap();
    let (check, weights) = provider::checkpoint(empty.path());
    assert!(check.level == Level::Error && weights.is_none(), "{check:?}");
}

/// The variables of a shell in which ROS 2 is ready.
const READY: [(&str, &str); 5] = [
    ("ROS_DISTRO", "jazzy"),
    ("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"),
    ("ROS_DOMAIN_ID", "7"),
    ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
    ("FASTRTPS_DEFAULT_PROFILES_FILE", "/etc/fastdds.xml"),
];

#[test]
fn the_ros_environment_is_checked() {
    let machine = Machine::with(&[
        ("/etc/fastdds.xml", "<profiles></profiles>"),
        ("/etc/other.xml", "<html>"),
        ("/dev/shm/x", ""),
        ("/proc/sys/net/core/rmem_max", "8388608\n"),
        ("/proc/sys/net/core/wmem_max", "212992\n"),
    ]);
    let changed = |name: &str, value: &str| {
        let mut variables = READY.to_vec();
        variables.retain(|(known, _)| *known != name);
        variables.push((name, value));
        ros::checks(&machine.host_with(&variables))
    };
    let checks = changed("x", "");
    for name in ["ROS_DISTRO", "RMW_IMPLEMENTATION", "ROS_DOMAIN_ID", "abandoned segments"] {
        is(&checks, name, Level::Ok, "");
    }
    is(&checks, "discovery", Level::Ok, "this machine only");
    is(&checks, "Fast DDS profile", Level::Ok, "/etc/fastdds.xml");
    is(&checks, "net.core.rmem_max", Level::Ok, "8.0 MiB");
    is(&checks, "net.core.wmem_max", Level::Warning, "sudo sysctl -w net.core.wmem_max=4194304");
    is(&ros::checks(&machine.host()), "ROS_DISTRO", Level::Warning, "setup.bash");
    is(&ros::checks(&machine.host()), "Fast DDS profile", Level::Warning, "none");
    let profiles = "FASTRTPS_DEFAULT_PROFILES_FILE";
    for (name, value, check, level, text) in [
        ("ROS_DISTRO", "rolling", "ROS_DISTRO", Level::Warning, "humble and jazzy only"),
        ("ROS_DOMAIN_ID", "150", "ROS_DOMAIN_ID", Level::Warning, "0..101"),
        ("ROS_DOMAIN_ID", "233", "ROS_DOMAIN_ID", Level::Error, "none of 0..232"),
        ("ROS_DOMAIN_ID", "-1", "ROS_DOMAIN_ID", Level::Error, "none of"),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF", "discovery", Level::Error, "LOCALHOST or SUBNET"),
        ("ROS_LOCALHOST_ONLY", "1", "discovery", Level::Warning, "takes precedence"),
        (profiles, "/etc/none.xml", "Fast DDS profile", Level::Error, "cannot be read"),
        (profiles, "/etc/other.xml", "Fast DDS profile", Level::Error, "holds no profiles"),
    ] {
        is(&changed(name, value), check, level, text);
    }
    let cyclone = changed("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp");
    is(&cyclone, "RMW_IMPLEMENTATION", Level::Warning, "tested with rmw_fastrtps_cpp only");
    assert!(!cyclone.iter().any(|check| check.name == "Fast DDS profile"));
    let newer = machine.host_with(&[("FASTDDS_DEFAULT_PROFILES_FILE", "/etc/fastdds.xml")]);
    is(&ros::checks(&newer), "Fast DDS profile", Level::Warning, "FASTRTPS_DEFAULT_PROFILES_FILE");
    let nothing = Machine::with(&[]);
    is(&ros::checks(&nothing.host()), "/dev/shm", Level::Error, "mount a tmpfs");
}

#[test]
fn segments_of_killed_processes_are_counted() {
    let machine = Machine::with(&[
        ("/dev/shm/fastrtps_0123456789abcdef", "0123456789"),
        ("/dev/shm/fastrtps_0123456789abcdef_el", ""),
    ]);
    let lock = machine.0.path().join("dev/shm/fastrtps_0123456789abcdef_el");
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&lock).unwrap().set_modified(hour_ago).unwrap();
    let checks = ros::checks(&machine.host());
    is(&checks, "abandoned segments", Level::Warning, "1 of killed processes, 10 B");
}
