//! The table of reasons, in the order of a connection's life: rows from the files beside this one.

use super::{Basis, Stage};

/// Declares the enum and its columns from one table, so that no reason can lack one.
macro_rules! reasons {
    ($($variant:ident $word:literal $basis:ident [$($stage:ident)+]
        $means:literal; $fix:literal;)*) => {
        /// Why a device, a message or a connection was refused or ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $( #[doc = concat!("`", $word, "`: ", $means, ".")] $variant, )*
        }

        impl Reason {
            /// Every reason, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word of log lines and metric labels.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// What it depends on.
            #[must_use]
            pub const fn basis(self) -> Basis {
                match self { $(Self::$variant => Basis::$basis),* }
            }

            /// Where it is said.
            #[must_use]
            pub const fn stages(self) -> &'static [Stage] {
                match self { $(Self::$variant => &[$(Stage::$stage),+]),* }
            }

            /// What it means, half a sentence.
            #[must_use]
            pub const fn means(self) -> &'static str {
                match self { $(Self::$variant => $means),* }
            }

            /// What to do about it, half a sentence; empty for an end that is nobody's fault.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix),* }
            }
        }
    };
}

handshake_reasons! {}
