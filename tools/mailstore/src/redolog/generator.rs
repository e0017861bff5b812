//! Log files written from the format's description, without any code of the parser: bytes, and what shall be read from them.

use crate::redolog::record::{Extent, Value};

/// Every code with a known layout.
pub const CODES: &[i32] = &[
    1, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    33, 34, 35, 36, 37, 38, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62,
    63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 83, 84, 86, 89, 90, 91, 92, 93, 95,
];

type Want = Vec<(&'static str, Value)>;

/// A log file being written.
pub struct Log {
    pub bytes: Vec<u8>,
    seed: u64,
    minor: i16,
    want: Want,
}

/// What a written record must be read as.
pub struct Written {
    pub offset: u64,
    pub end: u64,
    pub code: i32,
    pub minor: i16,
    pub want: Want,
}

impl Log {
    pub fn new(seed: u64, sequence: i64) -> Self {
        let mut bytes = b"ZM_REDO\x01".to_vec();
        bytes.extend(0i64.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.push(6);
        bytes.extend(b"server");
        bytes.resize(152, 0);
        bytes.extend(1_795_309_848_305i64.to_be_bytes());
        bytes.extend(1_795_309_848_305i64.to_be_bytes());
        bytes.extend([0, 1, 0, 42]);
        bytes.extend(1_795_309_848_000i64.to_be_bytes());
        bytes.resize(512, 0);
        Self { bytes, seed, minor: 42, want: Vec::new() }
    }

    /// As the server leaves it: the size in the header, and not in use.
    pub fn close(&mut self) {
        let len = self.bytes.len() as i64;
        self.bytes[7] = 0;
        self.bytes[8..16].copy_from_slice(&len.to_be_bytes());
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn v(&self, minor: i16) -> bool {
        self.minor >= minor
    }

    fn raw32(&mut self, n: i32) {
        self.bytes.extend(n.to_be_bytes());
    }

    fn raw_bool(&mut self) -> bool {
        let b = self.below(2) == 1;
        // Anything but 0 is true.
        let yes = [1, 255][self.below(2) as usize];
        self.bytes.push(if b { yes } else { 0 });
        b
    }

    fn want(&mut self, name: &'static str, value: Value) {
        self.want.push((name, value));
    }

    fn b(&mut self, name: &'static str) {
        let b = self.raw_bool();
        self.want(name, Value::Bool(b));
    }

    fn n8(&mut self, name: &'static str) {
        let n = self.below(256) as u8 as i8;
        self.bytes.extend(n.to_be_bytes());
        self.want(name, Value::Int(n.into()));
    }

    fn n16(&mut self, name: &'static str) {
        let n = self.below(1 << 16) as u16 as i16;
        self.bytes.extend(n.to_be_bytes());
        self.want(name, Value::Int(n.into()));
    }

    fn n32(&mut self, name: &'static str) {
        let n = self.below(1 << 32) as u32 as i32;
        self.raw32(n);
        self.want(name, Value::Int(n.into()));
    }

    fn n64(&mut self, name: &'static str) {
        let n = self.below(u64::MAX) as i64;
        self.bytes.extend(n.to_be_bytes());
        self.want(name, Value::Int(n));
    }

    fn pad(&mut self) {
        self.bytes.extend([255, 255]);
    }

    fn raw_text(&mut self) -> Value {
        const TEXTS: [&str; 7] = ["", "a", "Projekte \u{c4}", "\u{1f4ec} box", "ZMREDO", "\\Unread", "a\n\u{1b}[2J\"b"];
        let which = self.below(TEXTS.len() as u64 + 1) as usize;
        match TEXTS.get(which) {
            None => {
                self.raw32(-1);
                Value::Null
            }
            Some(text) => {
                self.raw32(text.len() as i32);
                self.bytes.extend(text.as_bytes());
                Value::Text((*text).to_owned())
            }
        }
    }

    fn t(&mut self, names: &[&'static str]) {
        for name in names {
            let text = self.raw_text();
            self.want(name, text);
        }
    }

    fn rows(&mut self, n: u64, mut row: impl FnMut(&mut Self) -> Value) -> Value {
        Value::List((0..n).map(|_| row(self)).collect())
    }

    fn list(&mut self, name: &'static str, row: impl FnMut(&mut Self) -> Value) {
        let n = self.below(4);
        self.raw32(n as i32);
        let list = self.rows(n, row);
        self.want(name, list);
    }

    fn map(&mut self, write: impl FnOnce(&mut Self)) -> Value {
        let outer = std::mem::take(&mut self.want);
        write(self);
        Value::Map(std::mem::replace(&mut self.want, outer))
    }

    fn ints(&mut self, name: &'static str) {
        self.list(name, |l| {
            let n = l.below(1 << 32) as u32 as i32;
            l.raw32(n);
            Value::Int(n.into())
        });
    }

    fn text_list(&mut self, name: &'static str) {
        if self.below(4) == 0 {
            self.raw32(-1);
            self.want(name, Value::Null);
        } else {
            self.list(name, Self::raw_text);
        }
    }

    fn tags(&mut self) {
        if self.v(33) { self.text_list("tags") } else { self.t(&["tag_ids"]) }
    }

    fn colour(&mut self) {
        if self.v(27) { self.n64("color") } else { self.n8("color") }
    }

    fn constraint(&mut self) {
        if self.raw_bool() { self.t(&["constraint"]) } else { self.want("constraint", Value::Null) }
    }

    fn uuid(&mut self) {
        if self.v(37) {
            self.t(&["uuid"]);
        }
    }

    fn single(&mut self) -> i32 {
        let single = if self.below(2) == 0 { -1 } else { 300 };
        self.raw32(single);
        single
    }

    fn ids(&mut self, single: i32) {
        if single > 0 { self.want("ids", Value::List(vec![Value::Int(single.into())])) } else { self.ints("ids") }
    }

    fn date(&mut self) {
        if self.raw_bool() { self.n64("date_ms") } else { self.want("date_ms", Value::Null) }
    }

    fn custom(&mut self) {
        let custom = match self.raw_text() {
            Value::Null => Value::Null,
            section => Value::Map(vec![("section", section), ("value", self.raw_text())]),
        };
        self.want("custom", custom);
    }

    fn data(&mut self, name: &'static str) {
        // A marker in the content, as in a message about logs.
        let content = [&b""[..], b"From: a\r\n\r\nZMREDO in a body\r\n", &[0; 70_000]][self.below(3) as usize];
        self.raw32(content.len() as i32);
        self.want(name, Value::Data(Extent { offset: self.bytes.len() as u64, length: content.len() as u64 }));
        self.bytes.extend(content);
    }

    fn made(&mut self, name: &'static str) {
        self.list(name, |l| {
            l.map(|l| {
                l.n32("id");
                l.uuid();
            })
        });
    }

    fn message(&mut self) {
        self.t(&["recipient"]);
        if self.v(4) {
            self.n64("received_ms");
        }
        self.b("shared");
        self.t(&["digest"]);
        if self.v(42) {
            self.n64("size")
        } else {
            self.n32("size")
        }
        self.n32("id");
        self.n32("folder_id");
        self.n32("conv_id");
        if self.v(5) {
            self.n32("conv_first_msg_id");
        }
        if self.v(32) {
            self.ints("merged_conv_ids");
        }
        self.n32("calendar_item_id");
        if self.v(1) {
            self.t(&["partstat"]);
        }
        self.n32("flags");
        self.b("no_ical");
        self.tags();
        self.t(&["path"]);
        self.pad();
        if self.v(25) {
            self.custom();
        }
        if self.below(3) == 0 {
            self.bytes.push(2);
            self.want("body", Value::Text("link".into()));
            self.pad();
        } else {
            self.bytes.push(1);
            self.want("body", Value::Text("inline".into()));
            self.data("data");
        }
    }

    fn document(&mut self) {
        self.t(&["name", "mime_type", "author"]);
        self.n8("item_type");
        if self.v(29) {
            self.t(&["description"]);
        }
        if self.v(31) {
            self.b("description_enabled");
        }
        self.uuid();
        self.message();
    }

    fn attributes(&mut self) {
        let n = self.below(4);
        self.bytes.extend((n as i16).to_be_bytes());
        let list = self.rows(n, |l| l.map(|l| l.t(&["key", "value"])));
        self.want("attributes", list);
    }

    fn part(&mut self) -> Value {
        self.map(|l| {
            l.raw_bool();
            l.t(&["time_zones", "invite"]);
            if !l.v(24) || l.raw_bool() {
                l.n64("received_ms");
                l.data("data");
            }
        })
    }

    fn fields(&mut self, code: i32) {
        match code {
            1 => self.list("open", |l| {
                l.raw32(1_795_309_848);
                l.raw32(7);
                Value::Text("1795309848-7".into())
            }),
            3 | 4 => self.n32("ended_op_code"),
            6 => {
                self.n64("sequence");
                self.t(&["file_name"]);
            }
            7 => self.t(&["account_id"]),
            8 | 11 | 45 | 55 | 65 => {}
            9 => {
                self.n64("backup_set_ms");
                self.n64("start_ms");
                self.n64("end_ms");
                self.t(&["label"]);
            }
            10 => {
                if self.v(9) {
                    self.n32("flags");
                    if self.raw_bool() {
                        self.list("types", |l| {
                            l.bytes.push(5);
                            Value::Int(5)
                        });
                    }
                }
                if self.v(10) && self.raw_bool() {
                    self.ints("ids");
                }
                if self.v(20) {
                    self.b("skip_delete");
                }
            }
            12 => {
                self.n32("id");
                self.uuid();
                self.t(&["name", "query", "types", "sort"]);
                self.n32("folder_id");
                if self.v(28) {
                    self.n32("flags");
                }
                self.colour();
            }
            13 => {
                self.n32("id");
                self.t(&["query", "types", "sort"]);
            }
            14 => {
                self.n32("id");
                self.t(&["name"]);
                self.colour();
            }
            15 => {
                self.n32("id");
                self.t(&["name"]);
            }
            16 => {
                let single = self.single();
                self.n8("item_type");
                self.colour();
                self.ids(single);
            }
            17 => {
                self.n32("id");
                self.n8("item_type");
                if self.v(8) {
                    self.b("delete_first");
                }
            }
            18 => {
                let single = self.single();
                self.n8("item_type");
                if self.v(33) {
                    self.t(&["tag"])
                } else {
                    self.n32("tag_id")
                }
                self.b("set");
                self.constraint();
                self.ids(single);
            }
            19 => {
                let single = self.single();
                self.n8("item_type");
                self.n32("flags");
                if self.v(33) {
                    self.text_list("tags")
                } else {
                    self.n64("tag_mask")
                }
                self.constraint();
                self.ids(single);
            }
            20 => {
                let single = self.single();
                self.n8("item_type");
                self.n32("dest_folder_id");
                self.constraint();
                self.ids(single);
                if self.v(16) {
                    self.n32("uid_next");
                }
            }
            21 => {
                let single = self.single();
                self.n8("item_type");
                self.constraint();
                self.ids(single);
            }
            22 | 79 => {
                let old = self.below(2) == 0;
                self.raw32(if old { 260 } else { -1 });
                self.raw32(if old { 261 } else { -1 });
                self.n8("item_type");
                self.n32("dest_folder_id");
                self.pad();
                if old {
                    let row = vec![("src", Value::Int(260)), ("dest", Value::Int(261))];
                    self.want("copies", Value::List(vec![Value::Map(row)]));
                } else {
                    self.list("copies", |l| {
                        l.map(|l| {
                            l.n32("src");
                            l.n32("dest");
                            l.uuid();
                        })
                    });
                }
                if self.v(30) {
                    self.b("from_dumpster");
                }
            }
            23 => {
                self.t(&["path"]);
                self.n8("attrs");
                self.n8("default_view");
                self.n32("flags");
                self.colour();
                self.t(&["url"]);
                if self.v(41) {
                    self.date();
                    self.custom();
                }
                self.made("folders");
            }
            24 => {
                self.n32("id");
                self.t(&["path"]);
                self.ints("parents");
            }
            25 => {
                self.n32("folder_id");
                self.b("subfolders");
            }
            26 => {
                let wide = self.v(26);
                self.list("mailbox_ids", |l| {
                    if wide {
                        l.bytes.extend(9i64.to_be_bytes())
                    } else {
                        l.raw32(9)
                    }
                    Value::Int(9)
                });
                self.t(&["digest", "path"]);
                self.pad();
                self.n32("size");
                self.data("data");
            }
            27 | 63 => self.message(),
            28 | 64 => {
                self.n32("imap_id");
                self.message();
            }
            29 => self.list("uids", |l| {
                l.map(|l| {
                    l.n32("id");
                    l.n32("uid");
                })
            }),
            30 => {
                self.n32("id");
                self.n32("folder_id");
                self.pad();
                self.tags();
                self.attributes();
                if self.v(14) {
                    self.data("data");
                }
            }
            31 => {
                self.n32("id");
                if !self.v(14) {
                    self.b("replace");
                }
                self.attributes();
                if self.v(14) {
                    self.pad();
                    self.data("data");
                }
            }
            32 => {
                self.n32("id");
                self.n32("folder_id");
                self.pad();
                self.t(&["text"]);
                self.colour();
                ["x", "y", "width", "height"].into_iter().for_each(|name| self.n32(name));
            }
            33 => {
                self.n32("id");
                self.t(&["text"]);
            }
            34 => ["id", "x", "y", "width", "height"].into_iter().for_each(|name| self.n32(name)),
            35 => {
                let kind = self.below(3);
                let name = ["mountpoint", "shared-file", "link"][kind as usize];
                self.want("kind", Value::Text(name.into()));
                self.n32("id");
                self.uuid();
                self.t(&["name", "owner_id"]);
                self.n32("remote_id");
                if kind == 1 || kind == 0 && self.v(38) {
                    self.t(&["remote_uuid"]);
                }
                self.n32("folder_id");
                if kind == 0 {
                    self.n8("default_view");
                    self.n32("flags");
                    self.colour();
                    if self.v(33) {
                        self.b("reminder");
                    }
                } else if kind == 1 {
                    self.t(&["owner_name", "content_type", "rights"]);
                }
            }
            36 => {
                ["id", "component", "flag"].into_iter().for_each(|name| self.n32(name));
                self.b("add");
            }
            37 => {
                self.n32("id");
                if self.raw_bool() {
                    self.n32("recurrence_range");
                    self.t(&["recurrence_id"]);
                }
                self.t(&["name", "address", "user_type", "role", "status"]);
                self.b("rsvp");
                self.n32("sequence");
                self.n64("stamp_ms");
            }
            38 | 39 => {
                self.n16("volume_id");
                self.n16("volume_type");
                self.t(&["name", "root"]);
                let bits = ["mailbox_group_bits", "mailbox_bits", "file_group_bits", "file_bits"];
                bits.into_iter().for_each(|name| self.n16(name));
                if code == 38 {
                    self.b("compress");
                    if self.below(2) == 0 {
                        self.n16("store_type");
                        self.t(&["class"]);
                    }
                }
            }
            40 => self.n16("volume_id"),
            41 => {
                self.n16("volume_type");
                self.n16("volume_id");
            }
            43 => {
                self.n32("calendar_item_id");
                if self.v(1) {
                    self.t(&["partstat"]);
                }
                self.n32("folder_id");
                self.pad();
                self.raw_bool();
                self.data("data");
                self.t(&["time_zones", "invite"]);
                if self.v(22) {
                    self.b("keep_alarms");
                    self.b("discard_existing");
                }
                if self.v(23) {
                    self.b("add_revision");
                }
            }
            44 => {
                self.n32("folder_id");
                self.pad();
                self.n32("id");
                if self.v(1) {
                    self.t(&["partstat"]);
                }
                if self.v(2) {
                    self.b("index_attachments");
                }
                if self.v(11) {
                    self.n32("flags");
                    if self.v(33) { self.text_list("tags") } else { self.n64("tag_mask") }
                }
                if !self.v(17) || self.raw_bool() {
                    let part = self.part();
                    self.want("default", part);
                }
                self.list("exceptions", Self::part);
                if self.v(15) {
                    self.text_list("replies");
                }
                if self.v(21) {
                    self.n64("next_alarm_ms");
                }
            }
            46 => self.t(&["section", "config"]),
            47 => {
                self.n32("folder_id");
                self.t(&["grantee"]);
                self.n8("grantee_type");
                self.n16("rights");
                self.bytes.push(1);
                if self.v(2) {
                    self.t(&["password"]);
                }
                if self.v(36) {
                    self.n64("expiry_ms");
                }
            }
            48 | 90 => {
                self.n32("folder_id");
                self.t(&["grantee"]);
                if self.v(39) {
                    self.b("due_to_expiry");
                }
            }
            49 => {
                self.n32("folder_id");
                self.t(&["url"]);
            }
            50 => {
                self.n32("folder_id");
                self.n64("last_item_ms");
                self.t(&["last_guid"]);
            }
            51 => {
                self.n32("folder_id");
                self.t(&["acl"]);
            }
            52 => {
                self.t(&["wiki_word"]);
                self.document();
            }
            53 => self.document(),
            54 => {
                self.n32("document_id");
                self.document();
            }
            56 => {
                self.n8("item_type");
                self.n32("dest_folder_id");
                self.pad();
                self.list("copies", |l| {
                    l.map(|l| {
                        l.n32("src");
                        l.n32("dest");
                        l.raw32(-1);
                        l.uuid();
                    })
                });
            }
            57 => self.t(&["time_zones", "invite", "sender"]),
            58 => {
                self.t(&["name"]);
                self.n32("parent_id");
                if self.v(19) {
                    self.n8("attrs");
                }
                self.n8("default_view");
                self.n32("flags");
                self.colour();
                self.t(&["url"]);
                self.n32("id");
                self.uuid();
                if self.v(40) {
                    self.date();
                } else if self.v(39) {
                    if self.raw_bool() {
                        self.raw32(1_700_000_000);
                        self.want("date_ms", Value::Int(1_700_000_000_000));
                    } else {
                        self.want("date_ms", Value::Null);
                    }
                }
                if self.v(41) {
                    self.custom();
                }
            }
            59 => {
                self.n32("id");
                self.n32("parent_id");
                self.t(&["name"]);
            }
            60 => {
                self.n32("id");
                self.n64("after_ms");
                self.t(&["country"]);
            }
            61 => {
                self.n32("id");
                self.n32("folder_id");
                self.t(&["name"]);
                self.n8("item_type");
                if self.v(40) {
                    self.date();
                }
            }
            62 => {
                self.n32("id");
                self.t(&["path"]);
                self.made("parents");
                self.n8("item_type");
            }
            66 | 83 => {
                self.n32("id");
                self.n64("time_ms");
            }
            67 | 78 => self.n32("id"),
            68 => {
                self.raw32(2);
                self.raw32(257);
                self.raw32(258);
                self.bytes.extend([5, 6]);
                self.want("ids", Value::List(vec![Value::Int(257), Value::Int(258)]));
                self.want("types", Value::List(vec![Value::Int(5), Value::Int(6)]));
            }
            69 => {
                self.t(&["name"]);
                if self.v(25) {
                    self.t(&["old_name"]);
                }
            }
            70 => {
                self.n32("id");
                self.list("zones", |l| l.map(|l| l.t(&["zone_id", "zone"])));
            }
            71 => {
                self.n32("id");
                self.n8("item_type");
                self.n64("date_ms");
            }
            72 => {
                self.n32("folder_id");
                self.n8("default_view");
            }
            73 => {
                self.n32("id");
                self.n8("item_type");
                let custom = self.map(|l| l.t(&["section", "value"]));
                self.want("custom", custom);
            }
            74 | 75 => {
                self.n8("item_type");
                self.t(&["account_id"]);
                self.n32("id");
            }
            76 => {
                self.n32("id");
                self.n32("revision");
                self.b("older_too");
            }
            77 => self.ints("ids"),
            80 => {
                self.n32("id");
                self.b("enabled");
            }
            84 => {
                self.n32("id");
                self.uuid();
                self.n32("parent_id");
                self.t(&["creator_id", "text"]);
            }
            86 => {
                self.n8("item_type");
                self.n32("id");
                for name in ["keep", "purge"] {
                    self.list(name, |l| l.map(|l| l.t(&["policy_id", "lifetime"])));
                }
            }
            89 => {
                self.n32("id");
                self.t(&["owner_id"]);
                self.n32("remote_id");
            }
            91 => {
                self.n32("folder_id");
                self.b("disabled");
            }
            92 => {
                self.n32("folder_id");
                self.n32("days");
            }
            93 => self.t(&["section"]),
            95 => {
                self.n32("id");
                self.n8("item_type");
                self.t(&["uid"]);
            }
            other => panic!("no layout for {other}"),
        }
    }

    /// A record with random fields. `counter`: its transaction.
    pub fn record(&mut self, code: i32, minor: i16, counter: i32) -> Written {
        self.minor = minor;
        let offset = self.bytes.len() as u64;
        self.bytes.extend(b"ZMREDO");
        self.bytes.extend(1i16.to_be_bytes());
        self.bytes.extend(minor.to_be_bytes());
        self.raw32(code);
        self.bytes.extend(1_795_309_849_316i64.to_be_bytes());
        self.raw32(if code == 3 || code == 4 { -1 } else { 77 });
        self.raw32(0);
        self.raw32(1_795_309_848);
        self.raw32(counter);
        if minor >= 26 {
            self.bytes.extend(9i64.to_be_bytes())
        } else {
            self.raw32(9)
        }
        self.fields(code);
        let want = std::mem::take(&mut self.want);
        Written { offset, end: self.bytes.len() as u64, code, minor, want }
    }

    /// A record of version 1.42 with fields given as bytes. Changes are numbered by `change`.
    pub fn with_fields(&mut self, code: i32, counter: i32, change: i32, mailbox: i64, fields: &[u8]) -> (usize, usize) {
        let offset = self.bytes.len();
        self.bytes.extend(b"ZMREDO");
        self.bytes.extend([0, 1, 0, 42]);
        self.raw32(code);
        self.bytes.extend(1_795_309_849_316i64.to_be_bytes());
        self.raw32(if code == 3 || code == 4 { -1 } else { change });
        self.raw32(0);
        self.raw32(1_795_309_848);
        self.raw32(counter);
        self.bytes.extend(mailbox.to_be_bytes());
        self.bytes.extend(fields);
        (offset, self.bytes.len())
    }
}

/// The fields of a delivery to several mailboxes (code 26).
pub fn incoming(path: &str, mailboxes: &[i64], content: &[u8]) -> Vec<u8> {
    let mut out = (mailboxes.len() as i32).to_be_bytes().to_vec();
    mailboxes.iter().for_each(|m| out.extend(m.to_be_bytes()));
    text(&mut out, "digest");
    text(&mut out, path);
    out.extend([255, 255]);
    out.extend((content.len() as i32).to_be_bytes());
    out.extend((content.len() as i32).to_be_bytes());
    out.extend(content);
    out
}

/// The fields of a message (code 27): with its content, or with the path of a delivery.
pub fn message(id: i32, path: &str, content: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, "alice@example.org");
    out.extend(1_795_309_849_000i64.to_be_bytes());
    out.push(u8::from(content.is_none()));
    text(&mut out, "digest");
    out.extend((content.map_or(9, <[u8]>::len) as i64).to_be_bytes());
    // Id, folder, conversation, first of the conversation, merged ones, calendar item.
    [id, 2, -1, -1, 0, 0].iter().for_each(|n| out.extend(n.to_be_bytes()));
    text(&mut out, "NE");
    out.extend(512i32.to_be_bytes());
    out.push(0);
    out.extend(0i32.to_be_bytes());
    text(&mut out, path);
    out.extend([255; 2]);
    out.extend((-1i32).to_be_bytes());
    match content {
        Some(content) => {
            out.push(1);
            out.extend((content.len() as i32).to_be_bytes());
            out.extend(content);
        }
        None => out.extend([2, 255, 255]),
    }
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i32).to_be_bytes());
    out.extend(text.as_bytes());
}
