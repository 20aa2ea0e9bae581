"""Checks of the build's own parts: `python3 -m unittest imagebuild.selftest` in guest-images/."""

import io
import pathlib
import struct
import tempfile
import unittest
import zlib

from . import apt, gpt


class Sources(unittest.TestCase):
    def read(self, **files):
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            (root / "sources.list.d").mkdir()
            for file, text in files.items():
                (root / file.replace("__", "/").replace("_", ".")).write_text(text)
            return apt.sources(root)

    def test_takes_bookworm_main_alone(self):
        lines = self.read(
            sources_list="deb http://a.example/debian bookworm main contrib # comment\n"
            "deb-src http://a.example/debian bookworm main\n"
            "deb [arch=amd64 signed-by=/k.gpg] http://b.example/x bookworm main\n"
            "deb http://c.example/tool tool main\n"
        )
        self.assertEqual(
            lines,
            [
                "deb http://a.example/debian bookworm main",
                "deb [signed-by=/k.gpg] http://b.example/x bookworm main",
            ],
        )

    def test_reads_stanzas_with_comments_and_disabled_ones(self):
        lines = self.read(
            **{
                "sources.list.d__debian_sources": "Types: deb\n# note\nURIs: http://a.example/debian\n"
                "Suites: bookworm bookworm-updates\nComponents: main\n\n"
                "Enabled: no\nTypes: deb\nURIs: http://z.example\nSuites: bookworm\nComponents: main\n"
            }
        )
        self.assertEqual(
            lines,
            [
                "deb http://a.example/debian bookworm main",
                "deb http://a.example/debian bookworm-updates main",
            ],
        )

    def test_says_when_there_is_no_mirror(self):
        with self.assertRaises(apt.AptError):
            self.read(sources_list="deb http://a.example/debian trixie main\n")


class PartitionTable(unittest.TestCase):
    def test_both_copies_are_whole_and_point_at_each_other(self):
        size = 64 << 20
        image = io.BytesIO(bytes(size))
        gpt.write(image, size)
        data = image.getvalue()
        self.assertEqual(data[510:512], b"\x55\xaa")
        self.assertEqual(data[450], 0xEE)
        last = size // 512 - 1
        for here, other in ((1, last), (last, 1)):
            header = bytearray(data[here * 512 : here * 512 + 92])
            crc = struct.unpack_from("<I", header, 16)[0]
            header[16:20] = bytes(4)
            self.assertEqual(crc, zlib.crc32(header))
            self.assertEqual(struct.unpack_from("<QQ", header, 24), (here, other))
            table, count, length, table_crc = struct.unpack_from("<QIII", header, 72)
            self.assertEqual(table_crc, zlib.crc32(data[table * 512 : table * 512 + count * length]))
            first, final = struct.unpack_from("<QQ", data, table * 512 + 32)
            start, span = gpt.partition_range(size)
            self.assertEqual((first * 512, (final + 1 - first) * 512), (start, span))


if __name__ == "__main__":
    unittest.main()
