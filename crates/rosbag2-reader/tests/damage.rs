//! Every kind of damage has its error or warning, and the messages before it are read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use rosbag2_reader::{Bag, BagError, BagWarning, Limits, Message, Selection, fuzz_entry, messages};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/bags").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// Messages, warnings and the error that ended the stream.
struct Outcome {
    messages: Vec<Message>,
    warnings: Vec<BagWarning>,
    error: Option<BagError>,
}

fn read(path: &Path, limits: Limits) -> Result<Outcome, BagError> {
    let bag = Bag::open_with(path, limits)?;
    let mut stream = bag.messages(&Selection::topics(0..bag.topics().len()))?;
    let (mut messages, mut error) = (Vec::new(), None);
    for message in stream.by_ref() {
        match message {
            Ok(message) => messages.push(message),
            Err(found) => error = Some(found),
        }
    }
    Ok(Outcome { messages, warnings: stream.warnings().to_vec(), error })
}

fn read_bytes(name: &str, bytes: &[u8]) -> Result<Outcome, BagError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&path, Limits::default())
}

fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join(name);
    std::fs::create_dir(&target).unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
    (folder, target)
}

/// The error's line, which must be one line and name what is expected.
fn line(error: &BagError, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

fn failure<T>(result: Result<T, BagError>) -> BagError {
    match result {
        Ok(_) => panic!("the bag was accepted"),
        Err(error) => error,
    }
}

/// Where the first chunk record begins, its bytes' layout being opcode 1, length 8, start 8, end 8,
/// uncompressed size 8, CRC 4, compression name 4 + n, compressed size 8.
fn first_chunk(bytes: &[u8]) -> usize {
    let mut at = 8;
    while bytes[at] != 0x06 {
        at += 9 + u64::from_le_bytes(bytes[at + 1..at + 9].try_into().unwrap()) as usize;
    }
    at
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn nothing_there() {
    line(&failure(Bag::open("no/such/bag")), &["cannot open no/such/bag"]);
    let folder = tempfile::tempdir().unwrap();
    line(&failure(Bag::open(folder.path())), &["is not a bag", ".mcap or .db3"]);
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "x").unwrap();
    line(&failure(Bag::open(&text)), &["notes.txt is not a bag"]);
}

#[test]
fn empty_files() {
    for name in ["a.mcap", "a.db3", "a.mcap.zstd", "a.db3.zstd"] {
        line(&failure(read_bytes(name, b"")), &[name, "is empty: 0 bytes"]);
    }
}

#[test]
fn a_bag_without_topics_is_empty() {
    let text = "rosbag2_bagfile_information: \
        {storage_identifier: mcap, relative_file_paths: [], message_count: 0}";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("metadata.yaml"), text).unwrap();
    line(&failure(Bag::open(folder.path())), &["is empty", "lists no file"]);
    // A finished MCAP file in which nothing was recorded.
    let mut file = Vec::from(mcap::MAGIC);
    file.extend([0x0f, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([0x02, 20, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([0; 20]);
    file.extend(mcap::MAGIC);
    line(&failure(read_bytes("a.mcap", &file)), &["is empty", "no topic was recorded"]);
}

#[test]
fn missing_metadata_is_a_warning() {
    for name in ["split_mcap", "split_sqlite"] {
        let (_keep, bag) = copy(name);
        let complete = read(&bag, Limits::default()).unwrap();
        std::fs::remove_file(bag.join("metadata.yaml")).unwrap();
        let outcome = read(&bag, Limits::default()).unwrap();
        assert_eq!(outcome.messages.len(), complete.messages.len());
        assert!(
            matches!(outcome.warnings[..], [BagWarning::MissingMetadata { files: 2, .. }]),
            "{:?}",
            outcome.warnings
        );
    }
}

#[test]
fn metadata_that_does_not_hold() {
    let (_keep, bag) = copy("split_mcap");
    let yaml = bag.join("metadata.yaml");
    let original = std::fs::read_to_string(&yaml).unwrap();
    let with = |text: &str| {
        std::fs::write(&yaml, text).unwrap();
        read(&bag, Limits::default())
    };
    line(&failure(with("[1, 2")), &["metadata.yaml", "not rosbag2 metadata", "ros2 bag reindex"]);
    line(&failure(with("rosbag2_bagfile_information: 5")), &["not rosbag2 metadata"]);
    line(
        &failure(with(&original.replace("split_mcap_1.mcap", "gone.mcap"))),
        &["lists gone.mcap", "not in the folder"],
    );
    line(
        &failure(with(&original.replace("split_mcap_1.mcap", "../../etc/passwd"))),
        &["lists passwd"],
    );
    line(
        &failure(with(
            &original.replace("storage_identifier: mcap", "storage_identifier: sqlite3"),
        )),
        &["storage_identifier is sqlite3"],
    );
    line(
        &failure(with(
            &original.replace("storage_identifier: mcap", "storage_identifier: rocksdb"),
        )),
        &["storage `rocksdb`", "mcap, sqlite3"],
    );
    let lz = original
        .replace("compression_mode: ''", "compression_mode: MESSAGE")
        .replace("compression_format: ''", "compression_format: fake");
    line(&failure(with(&lz)), &["compression `fake`", "supported: zstd"]);
    let wrong_type = original.replace("std_msgs/msg/String", "std_msgs/msg/Bool");
    line(
        &failure(with(&wrong_type)),
        &["/instruction", "std_msgs/msg/Bool", "std_msgs/msg/String"],
    );
    let outcome =
        with(&original.replacen("message_count: 40\n", "message_count: 41\n", 1)).unwrap();
    assert!(
        matches!(outcome.warnings[..], [BagWarning::CountDiffers { stated: 41, found: 40, .. }]),
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn missing_topic_lists_topics() {
    let bag = Bag::open(fixture("lz4.mcap")).unwrap();
    let error = failure(bag.topic("/camera/rgb"));
    line(
        &error,
        &[
            "no topic `/camera/rgb`",
            "/camera/image (sensor_msgs/msg/Image, 6 messages)",
            "/instruction",
        ],
    );
}

#[test]
fn wrong_type_lists_matching_topics() {
    let bag = Bag::open(fixture("lz4.mcap")).unwrap();
    let error =
        failure(bag.topic_of_type("/twist", &[messages::IMAGE, messages::COMPRESSED_IMAGE]));
    line(
        &error,
        &[
            "`/twist` is geometry_msgs/msg/TwistStamped",
            "expected sensor_msgs/msg/Image or",
            "/camera/image/compressed",
        ],
    );
}

#[test]
fn two_types_on_one_topic_are_refused() {
    let mut other = bytes("unchunked.mcap");
    let name = b"std_msgs/msg/String";
    let at = other.windows(name.len()).position(|window| window == name).unwrap();
    other[at..at + name.len()].copy_from_slice(b"std_msgs/msg/Strong");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a_0.mcap"), bytes("unchunked.mcap")).unwrap();
    std::fs::write(folder.path().join("a_1.mcap"), other).unwrap();
    // The summary at the end still says String: only reading the file in full shows the difference.
    let outcome = read(folder.path(), Limits::default());
    assert!(outcome.is_ok());
    let tail = std::fs::read(folder.path().join("a_1.mcap")).unwrap();
    std::fs::write(folder.path().join("a_1.mcap"), &tail[..tail.len() - 40]).unwrap();
    line(&failure(read(folder.path(), Limits::default())), &["/instruction", "Strong"]);
}

#[test]
fn truncated_mcap_is_read_up_to_the_cut() {
    for name in ["lz4.mcap", "zstd.mcap", "unchunked.mcap", "mcap_plain/mcap_plain.mcap"] {
        let whole = bytes(name);
        let complete = read(&fixture(name), Limits::default()).unwrap().messages;
        let mut best = 0;
        for cut in (1..whole.len()).step_by(97) {
            match read_bytes("cut.mcap", &whole[..cut]) {
                Ok(outcome) => {
                    assert!(outcome.error.is_none(), "{name} cut at {cut}: {:?}", outcome.error);
                    assert!(complete.starts_with(&outcome.messages), "{name} cut at {cut}");
                    let truncated = outcome
                        .warnings
                        .iter()
                        .any(|warning| matches!(warning, BagWarning::Truncated { .. }));
                    assert!(truncated, "{name} cut at {cut}: {:?}", outcome.warnings);
                    assert!(outcome.messages.len() >= best, "{name} cut at {cut} lost messages");
                    best = outcome.messages.len();
                }
                // Before the first channel there is nothing to recover.
                Err(error) => {
                    assert!(best == 0, "{name} cut at {cut}: {error}");
                    line(&error, &["cut.mcap", "ends in the middle", "before the first topic"]);
                }
            }
        }
        assert!(best + 1 >= complete.len(), "{name}: only {best} of {}", complete.len());
    }
}

#[test]
fn partial_chunk_is_recovered() {
    let whole = bytes("unsorted.mcap");
    let chunk = first_chunk(&whole);
    let length = u64::from_le_bytes(whole[chunk + 1..chunk + 9].try_into().unwrap()) as usize;
    let outcome = read_bytes("cut.mcap", &whole[..chunk + length / 2]).unwrap();
    assert!(outcome.messages.len() > 5, "{}", outcome.messages.len());
    let text = outcome
        .warnings
        .iter()
        .map(ToString::to_string)
        .find(|text| text.contains("ends in the middle"))
        .unwrap();
    assert!(
        text.contains(&format!("{} messages were recovered", outcome.messages.len())),
        "{text}"
    );
}

#[test]
fn zeros_at_the_end_are_a_truncation() {
    let mut whole = bytes("unchunked.mcap");
    let keep = whole.len() / 2;
    whole.truncate(keep);
    let cut = read_bytes("a.mcap", &whole).unwrap().messages.len();
    // A file system that gave blocks to a recorder that died: the last record's rest and all that
    // follows are zeros.
    whole.resize(keep + 4_000_000, 0);
    let outcome = read_bytes("a.mcap", &whole).unwrap();
    assert!(outcome.messages.len() >= cut && outcome.error.is_none());
    assert!(
        outcome.warnings.iter().any(|warning| matches!(warning, BagWarning::Truncated { .. })),
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn wrong_chunk_sizes_end_the_file() {
    let whole = bytes("lz4.mcap");
    let complete = read(&fixture("lz4.mcap"), Limits::default()).unwrap().messages;
    let chunk = first_chunk(&whole);
    let name = u32::from_le_bytes(whole[chunk + 37..chunk + 41].try_into().unwrap()) as usize;
    let compressed = chunk + 41 + name;
    for (at, what) in
        [(chunk + 1, "record"), (chunk + 25, "uncompressed"), (compressed, "compressed")]
    {
        let true_value = u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
        for value in [0, 1, true_value - 1, true_value + 1, true_value * 2, 1 << 40, u64::MAX] {
            let mut lying = whole.clone();
            put(&mut lying, at, value);
            match read_bytes("lie.mcap", &lying) {
                Err(error) => line(&error, &["lie.mcap"]),
                Ok(outcome) => {
                    let noticed = outcome.error.is_some()
                        || outcome
                            .warnings
                            .iter()
                            .any(|warning| matches!(warning, BagWarning::Truncated { .. }));
                    // One byte less cuts only the compressor's end mark: every message is there and
                    // the checksum holds.
                    let whole = outcome.messages == complete;
                    assert!(noticed || whole, "{what} size {value} for {true_value} was accepted");
                    if let Some(error) = outcome.error {
                        line(&error, &["lie.mcap is damaged after", "messages"]);
                    }
                }
            }
        }
    }
}

#[test]
fn chunk_checksum_finds_a_flipped_bit() {
    let mut whole = bytes("unsorted.mcap");
    let chunk = first_chunk(&whole);
    whole[chunk + 4000] ^= 1;
    let outcome = read_bytes("flip.mcap", &whole).unwrap();
    line(&outcome.error.unwrap(), &["flip.mcap is damaged after", "Chunk CRC failed"]);
    assert!(!outcome.messages.is_empty());
}

#[test]
fn bytes_that_are_no_bag() {
    let noise: Vec<u8> =
        (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    line(&failure(read_bytes("a.mcap", &noise)), &["a.mcap", "does not begin as an MCAP file"]);
    line(&failure(read_bytes("a.db3", &noise)), &["a.db3 is damaged", "not a database"]);
    line(&failure(read_bytes("a.db3.zstd", &noise)), &["cannot decompress", "a.db3.zstd"]);
    line(&failure(read_bytes("a.mcap.zstd", &noise)), &["a.mcap.zstd"]);
}

#[test]
fn truncated_sqlite_is_read_up_to_the_cut() {
    let whole = bytes("sqlite_plain/sqlite_plain.db3");
    let complete = read(&fixture("sqlite_plain"), Limits::default()).unwrap().messages;
    for cut in (1..whole.len()).step_by(1021).chain((4096..whole.len()).step_by(4096)) {
        match read_bytes("cut.db3", &whole[..cut]) {
            Err(error) => line(&error, &["cut.db3 is damaged"]),
            Ok(outcome) => {
                assert!(complete.starts_with(&outcome.messages), "cut at {cut}");
                assert!(outcome.error.is_some(), "cut at {cut} went unnoticed");
            }
        }
    }
}

#[test]
fn broken_sqlite_page_ends_reading() {
    let whole = bytes("sqlite_plain/sqlite_plain.db3");
    let complete = read(&fixture("sqlite_plain"), Limits::default()).unwrap().messages;
    let mut partial = 0;
    for page in 1..whole.len() / 4096 {
        let mut broken = whole.clone();
        broken[page * 4096..page * 4096 + 16].fill(0xff);
        if let Ok(outcome) = read_bytes("broken.db3", &broken)
            && let Some(error) = &outcome.error
        {
            line(error, &["broken.db3 is damaged after", "malformed"]);
            assert!(complete.starts_with(&outcome.messages), "page {page}");
            partial += usize::from(!outcome.messages.is_empty());
        }
    }
    assert!(partial > 0, "no broken page left a part to read");
}

#[test]
fn a_database_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, sql) in [
        ("other.db3", "CREATE TABLE t(x)"),
        (
            "view.db3",
            "CREATE TABLE topics(id, name, type, serialization_format);
            CREATE VIEW messages AS
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n)
                SELECT i AS topic_id, i AS timestamp, i AS data, i AS id FROM n",
        ),
    ] {
        let path = folder.path().join(name);
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        line(
            &failure(read(&path, Limits::default())),
            &[name, "has no table", "not a rosbag2 file"],
        );
    }
}

#[test]
fn sizes_above_the_limits_are_refused() {
    let limits = Limits { message_bytes: 600, ..Limits::default() };
    for name in ["sqlite_plain", "unchunked.mcap", "sqlite_message_zstd", "mcap_message_zstd"] {
        let error = match read(&fixture(name), limits) {
            Err(error) => error,
            Ok(outcome) => outcome.error.unwrap_or_else(|| panic!("{name} was accepted")),
        };
        line(&error, &["limit"]);
    }
    let limits = Limits { topics: 3, ..Limits::default() };
    line(&failure(read(&fixture("sqlite_plain"), limits)), &["number of topics", "limit of 3"]);
    let limits = Limits { temporary_bytes: 1000, ..Limits::default() };
    line(
        &failure(read(&fixture("sqlite_file_zstd"), limits)),
        &["decompressed size", "limit of 1000"],
    );
    let limits = Limits { metadata_bytes: 100, ..Limits::default() };
    line(&failure(read(&fixture("mcap_plain"), limits)), &["metadata.yaml", "limit of 100"]);
}

#[test]
fn payloads_that_are_not_their_type() {
    let outcome = read(&fixture("lz4.mcap"), Limits::default()).unwrap();
    let bag = Bag::open(fixture("lz4.mcap")).unwrap();
    let topic = bag.topic("/camera/image").unwrap();
    let good = outcome.messages.iter().find(|message| message.topic == topic.index).unwrap();
    let decode = |payload: &[u8]| {
        let message = Message { payload: payload.to_vec(), ..good.clone() };
        messages::decode::<messages::Image>(&message, topic)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(decode(&good.payload), Ok(()));
    for cut in 0..good.payload.len() {
        assert!(decode(&good.payload[..cut]).is_err(), "cut at {cut} was accepted");
    }
    let mut lying = good.payload.clone();
    let length = lying.len() - 12 * 53 - 4;
    lying[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decode(&lying).unwrap_err().contains("unexpected end of input"));
    let mut other = good.payload.clone();
    other[1] = 3;
    assert!(decode(&other).unwrap_err().contains("0x0003 is not plain CDR"));
    let mut longer = good.payload.clone();
    longer.extend([0; 8]);
    assert!(decode(&longer).unwrap_err().contains("8 bytes are left"));
}

/// Found by fuzzing: the library's message quotes the name of a compression, which is any bytes.
#[test]
fn names_without_letters_stay_on_one_line() {
    let mut file = bytes("lz4.mcap");
    let at = file.windows(7).position(|part| part == b"\x03\0\0\0lz4").unwrap();
    file[at + 4..at + 7].copy_from_slice(b"\n\0\x07");
    let (_, complaint) = fuzz_entry::mcap(&file);
    let complaint = complaint.unwrap();
    assert!(!complaint.contains(char::is_control), "{complaint:?}");
    assert!(complaint.contains("\\n\\u{0}\\u{7}"), "{complaint}");
}

/// The entry points of the fuzz targets, on bags with random bytes changed; fixed seed.
#[test]
fn changed_bytes_never_panic() {
    let mut random = fastrand::Rng::with_seed(1);
    assert!(fuzz_entry::mcap(&bytes("lz4.mcap")).0 > 30);
    assert_eq!(fuzz_entry::metadata(&bytes("mcap_plain/metadata.yaml")), Ok(1));
    for name in
        ["lz4.mcap", "zstd.mcap", "unchunked.mcap", "mcap_message_zstd/mcap_message_zstd.mcap"]
    {
        let whole = bytes(name);
        for _ in 0..150 {
            let mut changed = whole.clone();
            for _ in 0..random.usize(1..=8) {
                let at = random.usize(..changed.len());
                changed[at] = random.u8(..);
            }
            fuzz_entry::mcap(&changed);
        }
    }
    let yaml = bytes("mcap_plain/metadata.yaml");
    for _ in 0..300 {
        let mut changed = yaml.clone();
        let at = random.usize(..changed.len());
        changed[at] = random.u8(..);
        let _ = fuzz_entry::metadata(&changed);
    }
}

#[test]
fn wrong_chunk_index_is_checked() {
    let whole = bytes("lz4.mcap");
    // A chunk index record: opcode 8, length, start time, end time, offset of the chunk, its
    // length.
    let chunk = first_chunk(&whole) as u64;
    let entry = whole.windows(8).rposition(|window| window == chunk.to_le_bytes()).unwrap();
    for (at, value) in [
        (entry, u64::MAX),
        (entry, whole.len() as u64 - 3),
        (entry, 9),
        (entry + 8, u64::MAX),
        (entry + 8, 0),
    ] {
        let mut lying = whole.clone();
        put(&mut lying, at, value);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.mcap");
        std::fs::write(&path, &lying).unwrap();
        let Ok(bag) = Bag::open(&path) else { continue };
        let selection = Selection::topics(0..bag.topics().len()).between(0, i64::MAX - 1);
        // Reading ends, and only recorded messages are delivered.
        let complete = read(&fixture("lz4.mcap"), Limits::default()).unwrap().messages;
        for message in bag.messages(&selection).unwrap().filter_map(Result::ok) {
            assert!(complete.contains(&message), "{at} {value}");
        }
    }
}
