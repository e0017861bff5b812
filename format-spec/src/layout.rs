//! One declaration gives a fixed header its struct, its codec and its table in `SPEC.md`.
//!
//! All integers are little-endian, fields follow each other without gaps, and fields that do not add up to the declared
//! size do not compile.

/// A field that has a fixed width on disk.
pub trait Field: Sized {
    /// Width in bytes.
    const SIZE: usize;
    /// Name in the tables.
    fn type_name() -> String;
    /// Writes `SIZE` bytes; `out` is exactly that long.
    fn put(&self, out: &mut [u8]);
    /// Reads the first `SIZE` bytes of `bytes`; missing bytes read as zero, callers check the length first.
    fn get(bytes: &[u8]) -> Self;
}

#[inline]
fn prefix<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk::<N>().copied().unwrap_or([0; N])
}

macro_rules! int_field {
    ($($t:ty),*) => {$(
        impl Field for $t {
            const SIZE: usize = size_of::<$t>();
            fn type_name() -> String {
                stringify!($t).to_owned()
            }
            #[inline]
            fn put(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn get(bytes: &[u8]) -> Self {
                <$t>::from_le_bytes(prefix(bytes))
            }
        }
    )*};
}
int_field!(u8, u16, u32, u64, i64, u128);

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;
    fn type_name() -> String {
        format!("u8[{N}]")
    }
    #[inline]
    fn put(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }
    #[inline]
    fn get(bytes: &[u8]) -> Self {
        prefix(bytes)
    }
}

/// One row of a structure's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    pub offset: usize,
    pub size: usize,
    pub ty: String,
    pub field: &'static str,
    pub doc: String,
}

/// A structure as `SPEC.md` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: &'static str,
    pub size: usize,
    pub rows: Vec<TableRow>,
}

impl Table {
    /// The table in Markdown, one line a field.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = String::from("| offset | size | type | field | meaning |\n| ---: | ---: | --- | --- | --- |\n");
        for row in &self.rows {
            out.push_str(&format!("| {} | {} | {} | `{}` | {} |\n", row.offset, row.size, row.ty, row.field, row.doc));
        }
        out
    }
}

/// Declares a fixed-size structure. See the module's text.
#[macro_export]
macro_rules! layout {
    (
        $(#[doc = $sdoc:literal])*
        pub struct $name:ident[$size:literal] {
            $( $(#[doc = $doc:literal])* $field:ident: $ty:ty ),* $(,)?
        }
    ) => {
        $(#[doc = $sdoc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $ty ),*
        }

        const _: () = assert!(0 $( + <$ty as $crate::layout::Field>::SIZE )* == $size, "fields do not add up");

        impl $name {
            /// Size on disk in bytes.
            pub const SIZE: usize = $size;

            /// The bytes on disk.
            #[inline]
            #[must_use]
            pub fn encode(&self) -> [u8; $size] {
                let mut out = [0u8; $size];
                let mut rest: &mut [u8] = &mut out;
                $(
                    let (head, tail) = rest.split_at_mut(<$ty as $crate::layout::Field>::SIZE);
                    $crate::layout::Field::put(&self.$field, head);
                    rest = tail;
                )*
                debug_assert!(rest.is_empty());
                out
            }

            /// The structure at the start of `bytes`; `None` when there are fewer than its size. Nothing is checked.
            #[inline]
            #[must_use]
            pub fn decode(bytes: &[u8]) -> Option<Self> {
                let mut rest = bytes.get(..$size)?;
                $(
                    let $field = <$ty as $crate::layout::Field>::get(rest);
                    rest = rest.get(<$ty as $crate::layout::Field>::SIZE..)?;
                )*
                debug_assert!(rest.is_empty());
                Some(Self { $($field),* })
            }

            /// The structure as `SPEC.md` shows it.
            #[must_use]
            pub fn table() -> $crate::layout::Table {
                let mut rows = Vec::new();
                let mut offset = 0;
                $(
                    let doc: &[&str] = &[$($doc),*];
                    rows.push($crate::layout::TableRow {
                        offset,
                        size: <$ty as $crate::layout::Field>::SIZE,
                        ty: <$ty as $crate::layout::Field>::type_name(),
                        field: stringify!($field),
                        doc: doc.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" "),
                    });
                    offset += <$ty as $crate::layout::Field>::SIZE;
                )*
                debug_assert_eq!(offset, $size);
                $crate::layout::Table { name: stringify!($name), size: $size, rows }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    layout! {
        /// A sample of every width.
        pub struct Sample[16] {
            /// Four letters.
            magic: [u8; 4],
            /// A count.
            count: u32,
            /// A moment.
            moment: i64,
        }
    }

    #[test]
    fn a_structure_survives_its_bytes() {
        let s = Sample { magic: *b"ABCD", count: 7, moment: -3 };
        assert_eq!(Sample::SIZE, s.encode().len());
        assert_eq!(Sample::decode(&s.encode()), Some(s));
        assert_eq!(s.encode()[..8], [b'A', b'B', b'C', b'D', 7, 0, 0, 0]);
        assert_eq!(Sample::decode(&s.encode()[..15]), None);
        assert_eq!(Sample::table().rows[2].offset, 8);
    }
}
