//! Every operation's name and fields.
//!
//! In comes a cursor behind a record's head, out go the fields; the cursor then stands at the record's end, exactly. The
//! order of the lines is the order in the file.

use crate::redolog::input::{Cursor, Fault, ReadAt};
use crate::redolog::record::{Extent, Head, Value, Version};

pub const COMMIT: i32 = 3;
pub const ABORT: i32 = 4;
pub const CHECKPOINT: i32 = 1;
pub const ROLLOVER: i32 = 6;
pub const STORE_INCOMING_BLOB: i32 = 26;

/// An operation's name; `None`: no server writes this code to a log with a layout that is known.
pub fn name(code: i32) -> Option<&'static str> {
    Some(match code {
        1 => "Checkpoint",
        3 => "CommitTxn",
        4 => "AbortTxn",
        6 => "Rollover",
        7 => "CreateMailbox",
        8 => "DeleteMailbox",
        9 => "BackupMailbox",
        10 => "ReindexMailbox",
        11 => "PurgeOldMessages",
        12 => "CreateSavedSearch",
        13 => "ModifySavedSearch",
        14 => "CreateTag",
        15 => "RenameTag",
        16 => "ColorItem",
        17 => "IndexItem",
        18 => "AlterItemTag",
        19 => "SetItemTags",
        20 => "MoveItem",
        21 => "DeleteItem",
        22 => "CopyItem",
        23 => "CreateFolderPath",
        24 => "RenameFolderPath",
        25 => "EmptyFolder",
        26 => "StoreIncomingBlob",
        27 => "CreateMessage",
        28 => "SaveDraft",
        29 => "SetImapUid",
        30 => "CreateContact",
        31 => "ModifyContact",
        32 => "CreateNote",
        33 => "EditNote",
        34 => "RepositionNote",
        35 => "CreateMountpoint",
        36 => "ModifyInviteFlag",
        37 => "ModifyInvitePartStat",
        38 => "CreateVolume",
        39 => "ModifyVolume",
        40 => "DeleteVolume",
        41 => "SetCurrentVolume",
        43 => "CreateInvite",
        44 => "SetCalendarItem",
        45 => "TrackSync",
        46 => "SetConfig",
        47 => "GrantAccess",
        48 => "RevokeAccess",
        49 => "SetFolderUrl",
        50 => "SetSubscriptionData",
        51 => "SetPermissions",
        52 => "SaveWiki",
        53 => "SaveDocument",
        54 => "AddDocumentRevision",
        55 => "TrackImap",
        56 => "ImapCopyItem",
        57 => "ICalReply",
        58 => "CreateFolder",
        59 => "RenameFolder",
        60 => "FixCalendarItemTimeZone",
        61 => "RenameItem",
        62 => "RenameItemPath",
        63 => "CreateChat",
        64 => "SaveChat",
        65 => "PurgeImapDeleted",
        66 => "DismissCalendarItemAlarm",
        67 => "FixCalendarItemEndTime",
        68 => "IndexDeferredItems",
        69 => "RenameMailbox",
        70 => "FixCalendarItemTZ",
        71 => "DateItem",
        72 => "SetFolderDefaultView",
        73 => "SetCustomData",
        74 => "LockItem",
        75 => "UnlockItem",
        76 => "PurgeRevision",
        77 => "DeleteItemFromDumpster",
        78 => "FixCalendarItemPriority",
        79 => "RecoverItem",
        80 => "EnableSharedReminder",
        83 => "SnoozeCalendarItemAlarm",
        84 => "CreateComment",
        86 => "SetRetentionPolicy",
        89 => "RefreshMountpoint",
        90 => "ExpireAccess",
        91 => "SetDisableActiveSync",
        92 => "SetWebOfflineSyncDays",
        93 => "DeleteConfig",
        95 => "SetPop3Uid",
        _ => return None,
    })
}

/// How many layouts a code stands for that nothing but their length tells apart.
pub fn variants(code: i32) -> u8 {
    match code {
        35 => 3,
        38 => 2,
        _ => 1,
    }
}

/// Fields as they are read; every method reads one and keeps it under a name.
struct Fields<'a, R> {
    from: &'a mut Cursor<R>,
    version: Version,
    kept: Vec<(&'static str, Value)>,
}

impl<R: ReadAt> Fields<'_, R> {
    fn has(&self, minor: i16) -> bool {
        self.version.has(minor)
    }

    fn keep(&mut self, name: &'static str, value: Value) {
        self.kept.push((name, value));
    }

    fn int(&mut self, name: &'static str, n: impl Into<i64>) {
        self.keep(name, Value::Int(n.into()));
    }

    fn i8(&mut self, name: &'static str) -> Result<(), Fault> {
        let n = self.from.i8()?;
        self.int(name, n);
        Ok(())
    }

    fn i16(&mut self, name: &'static str) -> Result<(), Fault> {
        let n = self.from.i16()?;
        self.int(name, n);
        Ok(())
    }

    fn i32(&mut self, name: &'static str) -> Result<(), Fault> {
        let n = self.from.i32()?;
        self.int(name, n);
        Ok(())
    }

    fn i32s(&mut self, names: &[&'static str]) -> Result<(), Fault> {
        names.iter().try_for_each(|name| self.i32(name))
    }

    fn i64(&mut self, name: &'static str) -> Result<(), Fault> {
        let n = self.from.i64()?;
        self.int(name, n);
        Ok(())
    }

    fn bool(&mut self, name: &'static str) -> Result<(), Fault> {
        let b = self.from.bool()?;
        self.keep(name, Value::Bool(b));
        Ok(())
    }

    fn text_value(&mut self) -> Result<Value, Fault> {
        Ok(self.from.text()?.map_or(Value::Null, Value::Text))
    }

    fn text(&mut self, name: &'static str) -> Result<(), Fault> {
        let text = self.text_value()?;
        self.keep(name, text);
        Ok(())
    }

    fn texts(&mut self, names: &[&'static str]) -> Result<(), Fault> {
        names.iter().try_for_each(|name| self.text(name))
    }

    /// Carries nothing; once a volume.
    fn pad(&mut self) -> Result<(), Fault> {
        self.from.i16().map(|_| ())
    }

    fn uuid(&mut self, name: &'static str) -> Result<(), Fault> {
        if self.has(37) { self.text(name) } else { Ok(()) }
    }

    fn colour(&mut self) -> Result<(), Fault> {
        if self.has(27) { self.i64("color") } else { self.i8("color") }
    }

    /// `n` elements.
    fn rows(&mut self, n: usize, mut row: impl FnMut(&mut Self) -> Result<Value, Fault>) -> Result<Value, Fault> {
        // Not reserved ahead: the count was held against the file's length, not against memory.
        let mut list = Vec::new();
        for _ in 0..n {
            self.from.charge(size_of::<Value>())?;
            list.push(row(self)?);
        }
        Ok(Value::List(list))
    }

    /// An element with fields of its own.
    fn map(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<Value, Fault> {
        let outer = std::mem::take(&mut self.kept);
        let result = read(self);
        let inner = std::mem::replace(&mut self.kept, outer);
        result?;
        self.from.charge(inner.len() * size_of::<(&str, Value)>())?;
        Ok(Value::Map(inner))
    }

    /// A count, then that many elements, each at least `min` bytes.
    fn list(
        &mut self,
        name: &'static str,
        min: u64,
        row: impl FnMut(&mut Self) -> Result<Value, Fault>,
    ) -> Result<(), Fault> {
        let n = self.from.count(min)?;
        let list = self.rows(n, row)?;
        self.keep(name, list);
        Ok(())
    }

    fn ints(&mut self, name: &'static str) -> Result<(), Fault> {
        self.list(name, 4, |f| Ok(Value::Int(f.from.i32()?.into())))
    }

    /// A text list; null when it has a negative length.
    fn text_list(&mut self, name: &'static str) -> Result<(), Fault> {
        let n = self.from.i32()?;
        if n < 0 {
            self.keep(name, Value::Null);
            return Ok(());
        }
        let n = self.from.check_count(n.into(), 4)?;
        let list = self.rows(n, Self::text_value)?;
        self.keep(name, list);
        Ok(())
    }

    /// Tag names; once a text with tag ids.
    fn tags(&mut self) -> Result<(), Fault> {
        if self.has(33) { self.text_list("tags") } else { self.text("tag_ids") }
    }

    fn constraint(&mut self) -> Result<(), Fault> {
        if self.from.bool()? {
            return self.text("constraint");
        }
        self.keep("constraint", Value::Null);
        Ok(())
    }

    /// The ids of a change of several items, which stand at its end unless `single` at its start was the only one.
    fn ids(&mut self, single: i32) -> Result<(), Fault> {
        if single > 0 {
            self.keep("ids", Value::List(vec![Value::Int(single.into())]));
            return Ok(());
        }
        self.ints("ids")
    }

    fn optional_date(&mut self) -> Result<(), Fault> {
        if self.from.bool()? {
            return self.i64("date_ms");
        }
        self.keep("date_ms", Value::Null);
        Ok(())
    }

    fn custom(&mut self) -> Result<(), Fault> {
        let custom = match self.text_value()? {
            Value::Null => Value::Null,
            section => Value::Map(vec![("section", section), ("value", self.text_value()?)]),
        };
        self.keep("custom", custom);
        Ok(())
    }

    fn content(&mut self, name: &'static str) -> Result<(), Fault> {
        let (offset, length) = self.from.content()?;
        self.keep(name, Value::Data(Extent { offset, length }));
        Ok(())
    }

    /// Folders made on the way.
    fn made(&mut self, name: &'static str) -> Result<(), Fault> {
        let min = if self.has(37) { 8 } else { 4 };
        self.list(name, min, |f| {
            f.map(|f| {
                f.i32("id")?;
                f.uuid("uuid")
            })
        })
    }

    fn message(&mut self) -> Result<(), Fault> {
        self.text("recipient")?;
        if self.has(4) {
            self.i64("received_ms")?;
        }
        self.bool("shared")?;
        self.text("digest")?;
        if self.has(42) {
            self.i64("size")?;
        } else {
            self.i32("size")?;
        }
        self.i32s(&["id", "folder_id", "conv_id"])?;
        if self.has(5) {
            self.i32("conv_first_msg_id")?;
        }
        if self.has(32) {
            self.ints("merged_conv_ids")?;
        }
        self.i32("calendar_item_id")?;
        if self.has(1) {
            self.text("partstat")?;
        }
        self.i32("flags")?;
        self.bool("no_ical")?;
        self.tags()?;
        self.text("path")?;
        self.pad()?;
        if self.has(25) {
            self.custom()?;
        }
        match self.from.i8()? {
            1 => {
                self.keep("body", Value::Text("inline".to_owned()));
                self.content("data")
            }
            2 => {
                self.keep("body", Value::Text("link".to_owned()));
                self.pad()
            }
            _ => Err(Fault::Bad("a message body of unknown kind")),
        }
    }

    fn document(&mut self) -> Result<(), Fault> {
        self.texts(&["name", "mime_type", "author"])?;
        self.i8("item_type")?;
        if self.has(29) {
            self.text("description")?;
        }
        if self.has(31) {
            self.bool("description_enabled")?;
        }
        self.uuid("uuid")?;
        self.message()
    }

    fn attributes(&mut self) -> Result<(), Fault> {
        let n = self.from.i16()?;
        let n = self.from.check_count(n.into(), 8)?;
        let list = self.rows(n, |f| {
            f.map(|f| {
                f.text("key")?;
                f.text("value")
            })
        })?;
        self.keep("attributes", list);
        Ok(())
    }

    /// One calendar object of a series.
    fn invite_part(&mut self) -> Result<Value, Fault> {
        self.map(|f| {
            f.from.bool()?;
            f.texts(&["time_zones", "invite"])?;
            if !f.has(24) || f.from.bool()? {
                f.i64("received_ms")?;
                f.content("data")?;
            }
            Ok(())
        })
    }

    fn policy(&mut self, name: &'static str) -> Result<(), Fault> {
        self.list(name, 8, |f| f.map(|f| f.texts(&["policy_id", "lifetime"])))
    }

    fn mountpoint(&mut self, variant: u8) -> Result<(), Fault> {
        let kind = match variant {
            0 => "mountpoint",
            1 => "shared-file",
            _ => "link",
        };
        self.keep("kind", Value::Text(kind.to_owned()));
        self.i32("id")?;
        self.uuid("uuid")?;
        self.texts(&["name", "owner_id"])?;
        self.i32("remote_id")?;
        match variant {
            0 => {
                if self.has(38) {
                    self.text("remote_uuid")?;
                }
                self.i32("folder_id")?;
                self.i8("default_view")?;
                self.i32("flags")?;
                self.colour()?;
                if self.has(33) {
                    self.bool("reminder")?;
                }
                Ok(())
            }
            1 => {
                self.text("remote_uuid")?;
                self.i32("folder_id")?;
                self.texts(&["owner_name", "content_type", "rights"])
            }
            _ => self.i32("folder_id"),
        }
    }

    fn volume(&mut self) -> Result<(), Fault> {
        self.i16("volume_id")?;
        self.i16("volume_type")?;
        self.texts(&["name", "root"])?;
        for name in ["mailbox_group_bits", "mailbox_bits", "file_group_bits", "file_bits"] {
            self.i16(name)?;
        }
        Ok(())
    }
}

/// The fields of an operation; `variant` chooses among layouts of one code, see [`variants`].
pub fn fields<R: ReadAt>(from: &mut Cursor<R>, head: &Head, variant: u8) -> Result<Vec<(&'static str, Value)>, Fault> {
    let f = &mut Fields { from, version: head.version, kept: Vec::new() };
    match head.code {
        CHECKPOINT => f.list("open", 8, |f| {
            let (time, counter) = (f.from.i32()?, f.from.i32()?);
            Ok(Value::Text(format!("{time}-{counter}")))
        })?,
        COMMIT | ABORT => f.i32("ended_op_code")?,
        ROLLOVER => {
            f.i64("sequence")?;
            f.text("file_name")?;
        }
        7 => f.text("account_id")?,
        // These say that something happened to the whole mailbox, and nothing else.
        8 | 11 | 45 | 55 | 65 => {}
        9 => {
            for name in ["backup_set_ms", "start_ms", "end_ms"] {
                f.i64(name)?;
            }
            f.text("label")?;
        }
        10 => {
            if f.has(9) {
                f.i32("flags")?;
                if f.from.bool()? {
                    f.list("types", 1, |f| Ok(Value::Int(f.from.i8()?.into())))?;
                }
            }
            if f.has(10) && f.from.bool()? {
                f.ints("ids")?;
            }
            if f.has(20) {
                f.bool("skip_delete")?;
            }
        }
        12 => {
            f.i32("id")?;
            f.uuid("uuid")?;
            f.texts(&["name", "query", "types", "sort"])?;
            f.i32("folder_id")?;
            if f.has(28) {
                f.i32("flags")?;
            }
            f.colour()?;
        }
        13 => {
            f.i32("id")?;
            f.texts(&["query", "types", "sort"])?;
        }
        14 => {
            f.i32("id")?;
            f.text("name")?;
            f.colour()?;
        }
        15 => {
            f.i32("id")?;
            f.text("name")?;
        }
        16 => {
            let single = f.from.i32()?;
            f.i8("item_type")?;
            f.colour()?;
            f.ids(single)?;
        }
        17 => {
            f.i32("id")?;
            f.i8("item_type")?;
            if f.has(8) {
                f.bool("delete_first")?;
            }
        }
        18 => {
            let single = f.from.i32()?;
            f.i8("item_type")?;
            if f.has(33) {
                f.text("tag")?;
            } else {
                f.i32("tag_id")?;
            }
            f.bool("set")?;
            f.constraint()?;
            f.ids(single)?;
        }
        19 => {
            let single = f.from.i32()?;
            f.i8("item_type")?;
            f.i32("flags")?;
            if f.has(33) {
                f.text_list("tags")?;
            } else {
                f.i64("tag_mask")?;
            }
            f.constraint()?;
            f.ids(single)?;
        }
        20 => {
            let single = f.from.i32()?;
            f.i8("item_type")?;
            f.i32("dest_folder_id")?;
            f.constraint()?;
            f.ids(single)?;
            if f.has(16) {
                f.i32("uid_next")?;
            }
        }
        21 => {
            let single = f.from.i32()?;
            f.i8("item_type")?;
            f.constraint()?;
            f.ids(single)?;
        }
        22 | 79 => {
            let (source, destination) = (f.from.i32()?, f.from.i32()?);
            f.i8("item_type")?;
            f.i32("dest_folder_id")?;
            f.pad()?;
            if source > 0 && destination > 0 {
                let row = vec![("src", Value::Int(source.into())), ("dest", Value::Int(destination.into()))];
                f.keep("copies", Value::List(vec![Value::Map(row)]));
            } else {
                f.list("copies", 8, |f| {
                    f.map(|f| {
                        f.i32s(&["src", "dest"])?;
                        f.uuid("uuid")
                    })
                })?;
            }
            if f.has(30) {
                f.bool("from_dumpster")?;
            }
        }
        23 => {
            f.text("path")?;
            f.i8("attrs")?;
            f.i8("default_view")?;
            f.i32("flags")?;
            f.colour()?;
            f.text("url")?;
            if f.has(41) {
                f.optional_date()?;
                f.custom()?;
            }
            f.made("folders")?;
        }
        24 => {
            f.i32("id")?;
            f.text("path")?;
            f.ints("parents")?;
        }
        25 => {
            f.i32("folder_id")?;
            f.bool("subfolders")?;
        }
        STORE_INCOMING_BLOB => {
            if f.has(0) {
                let wide = f.has(26);
                f.list("mailbox_ids", if wide { 8 } else { 4 }, |f| {
                    Ok(Value::Int(if wide { f.from.i64()? } else { f.from.i32()?.into() }))
                })?;
            }
            f.texts(&["digest", "path"])?;
            f.pad()?;
            f.i32("size")?;
            f.content("data")?;
        }
        27 | 63 => f.message()?,
        28 | 64 => {
            f.i32("imap_id")?;
            f.message()?;
        }
        29 => f.list("uids", 8, |f| f.map(|f| f.i32s(&["id", "uid"])))?,
        30 => {
            f.i32s(&["id", "folder_id"])?;
            f.pad()?;
            f.tags()?;
            f.attributes()?;
            if f.has(14) {
                f.content("data")?;
            }
        }
        31 => {
            f.i32("id")?;
            if !f.has(14) {
                f.bool("replace")?;
            }
            f.attributes()?;
            if f.has(14) {
                f.pad()?;
                f.content("data")?;
            }
        }
        32 => {
            f.i32s(&["id", "folder_id"])?;
            f.pad()?;
            f.text("text")?;
            f.colour()?;
            f.i32s(&["x", "y", "width", "height"])?;
        }
        33 => {
            f.i32("id")?;
            f.text("text")?;
        }
        34 => f.i32s(&["id", "x", "y", "width", "height"])?,
        35 => f.mountpoint(variant)?,
        36 => {
            f.i32s(&["id", "component", "flag"])?;
            f.bool("add")?;
        }
        37 => {
            f.i32("id")?;
            if f.from.bool()? {
                f.i32("recurrence_range")?;
                f.text("recurrence_id")?;
            }
            f.texts(&["name", "address", "user_type", "role", "status"])?;
            f.bool("rsvp")?;
            f.i32("sequence")?;
            f.i64("stamp_ms")?;
        }
        38 => {
            f.volume()?;
            f.bool("compress")?;
            // Newer servers write two more fields under the same version. They are tried first: the shorter layout could
            // not end where a record begins, whereas here nothing else could be read as both.
            if variant == 0 {
                f.i16("store_type")?;
                f.text("class")?;
            }
        }
        39 => f.volume()?,
        40 => f.i16("volume_id")?,
        41 => {
            f.i16("volume_type")?;
            f.i16("volume_id")?;
        }
        43 => {
            f.i32("calendar_item_id")?;
            if f.has(1) {
                f.text("partstat")?;
            }
            f.i32("folder_id")?;
            if f.has(0) {
                f.pad()?;
            }
            f.from.bool()?;
            f.content("data")?;
            f.texts(&["time_zones", "invite"])?;
            if f.has(22) {
                f.bool("keep_alarms")?;
                f.bool("discard_existing")?;
            }
            if f.has(23) {
                f.bool("add_revision")?;
            }
        }
        44 => {
            f.i32("folder_id")?;
            if f.has(0) {
                f.pad()?;
            }
            f.i32("id")?;
            if f.has(1) {
                f.text("partstat")?;
            }
            if f.has(2) {
                f.bool("index_attachments")?;
            }
            if f.has(11) {
                f.i32("flags")?;
                if f.has(33) {
                    f.text_list("tags")?;
                } else {
                    f.i64("tag_mask")?;
                }
            }
            if !f.has(17) || f.from.bool()? {
                let part = f.invite_part()?;
                f.keep("default", part);
            }
            f.list("exceptions", 9, Fields::invite_part)?;
            if f.has(15) {
                // -1 keeps the replies that are there: the null list.
                f.text_list("replies")?;
            }
            if f.has(21) {
                f.i64("next_alarm_ms")?;
            }
        }
        46 => f.texts(&["section", "config"])?,
        47 => {
            f.i32("folder_id")?;
            f.text("grantee")?;
            f.i8("grantee_type")?;
            f.i16("rights")?;
            f.from.bool()?;
            if f.has(2) {
                f.text("password")?;
            }
            if f.has(36) {
                f.i64("expiry_ms")?;
            }
        }
        48 | 90 => {
            f.i32("folder_id")?;
            f.text("grantee")?;
            if f.has(39) {
                f.bool("due_to_expiry")?;
            }
        }
        49 => {
            f.i32("folder_id")?;
            f.text("url")?;
        }
        50 => {
            f.i32("folder_id")?;
            f.i64("last_item_ms")?;
            f.text("last_guid")?;
        }
        51 => {
            f.i32("folder_id")?;
            f.text("acl")?;
        }
        52 => {
            f.text("wiki_word")?;
            f.document()?;
        }
        53 => f.document()?,
        54 => {
            f.i32("document_id")?;
            f.document()?;
        }
        56 => {
            f.i8("item_type")?;
            f.i32("dest_folder_id")?;
            f.pad()?;
            f.list("copies", 12, |f| {
                f.map(|f| {
                    f.i32s(&["src", "dest"])?;
                    f.from.i32()?;
                    f.uuid("uuid")
                })
            })?;
        }
        57 => f.texts(&["time_zones", "invite", "sender"])?,
        58 => {
            f.text("name")?;
            f.i32("parent_id")?;
            if f.has(19) {
                f.i8("attrs")?;
            }
            f.i8("default_view")?;
            f.i32("flags")?;
            f.colour()?;
            f.text("url")?;
            f.i32("id")?;
            f.uuid("uuid")?;
            if f.has(40) {
                f.optional_date()?;
            } else if f.has(39) {
                // This one version wrote seconds.
                let seconds = if f.from.bool()? { Some(f.from.i32()?) } else { None };
                f.keep("date_ms", seconds.map_or(Value::Null, |s| Value::Int(i64::from(s) * 1000)));
            }
            if f.has(41) {
                f.custom()?;
            }
        }
        59 => {
            f.i32s(&["id", "parent_id"])?;
            f.text("name")?;
        }
        60 => {
            f.i32("id")?;
            f.i64("after_ms")?;
            f.text("country")?;
        }
        61 => {
            f.i32s(&["id", "folder_id"])?;
            f.text("name")?;
            f.i8("item_type")?;
            if f.has(40) {
                f.optional_date()?;
            }
        }
        62 => {
            f.i32("id")?;
            f.text("path")?;
            f.made("parents")?;
            f.i8("item_type")?;
        }
        66 | 83 => {
            f.i32("id")?;
            f.i64("time_ms")?;
        }
        67 | 78 => f.i32("id")?,
        68 => {
            let n = f.from.count(5)?;
            let ids = f.rows(n, |f| Ok(Value::Int(f.from.i32()?.into())))?;
            let types = f.rows(n, |f| Ok(Value::Int(f.from.i8()?.into())))?;
            f.keep("ids", ids);
            f.keep("types", types);
        }
        69 => {
            f.text("name")?;
            if f.has(25) {
                f.text("old_name")?;
            }
        }
        70 => {
            f.i32("id")?;
            f.list("zones", 8, |f| f.map(|f| f.texts(&["zone_id", "zone"])))?;
        }
        71 => {
            f.i32("id")?;
            f.i8("item_type")?;
            f.i64("date_ms")?;
        }
        72 => {
            f.i32("folder_id")?;
            f.i8("default_view")?;
        }
        73 => {
            f.i32("id")?;
            f.i8("item_type")?;
            let custom = f.map(|f| f.texts(&["section", "value"]))?;
            f.keep("custom", custom);
        }
        74 | 75 => {
            f.i8("item_type")?;
            f.text("account_id")?;
            f.i32("id")?;
        }
        76 => {
            f.i32s(&["id", "revision"])?;
            f.bool("older_too")?;
        }
        77 => f.ints("ids")?,
        80 => {
            f.i32("id")?;
            f.bool("enabled")?;
        }
        84 => {
            f.i32("id")?;
            f.uuid("uuid")?;
            f.i32("parent_id")?;
            f.texts(&["creator_id", "text"])?;
        }
        86 => {
            f.i8("item_type")?;
            f.i32("id")?;
            f.policy("keep")?;
            f.policy("purge")?;
        }
        89 => {
            f.i32("id")?;
            f.text("owner_id")?;
            f.i32("remote_id")?;
        }
        91 => {
            f.i32("folder_id")?;
            f.bool("disabled")?;
        }
        92 => f.i32s(&["folder_id", "days"])?,
        93 => f.text("section")?,
        95 => {
            f.i32("id")?;
            f.i8("item_type")?;
            f.text("uid")?;
        }
        _ => return Err(Fault::Bad("an operation code that does not exist")),
    }
    Ok(std::mem::take(&mut f.kept))
}
