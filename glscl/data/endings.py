"""Whether a file ends where its container says, by a look at a few of its bytes: a copy that broke
off holds good frames, and mostly nothing else tells that the rest is missing.

What is not known to be cut counts as whole: some containers may end anywhere."""
import os

TAIL = 2 ** 17   # bytes: more than a page of Ogg or a packet of MPEG has
TS_PACKETS = (188, 192, 204)  # bytes; the longer ones with a time stamp, or a check sum
FILLING = b'\0\r\n'  # what may follow the end of a file
BOXES = (b'ftyp', b'styp', b'moov', b'moof', b'mdat', b'free', b'skip', b'wide', b'uuid', b'meta',
         b'sidx', b'mfra', b'udta', b'emsg', b'prft')
OPEN = (b'\x18\x53\x80\x67', b'\x1f\x43\xb6\x75')  # Matroska's segments and clusters
ELEMENTS = (*OPEN, b'\x1a\x45\xdf\xa3', b'\x11\x4d\x9b\x74', b'\x15\x49\xa9\x66', b'\xec', b'\xbf',
            b'\x16\x54\xae\x6b', b'\x1c\x53\xbb\x6b', b'\x12\x54\xc3\x67', b'\x19\x41\xa4\x69',
            b'\x10\x43\xa7\x70', b'\xe7', b'\xa3', b'\xa0', b'\xa7', b'\xab')
FILE_PROPERTIES = bytes.fromhex('a1dcab8c47a9cf118ee400c00c205365')  # of Microsoft's ASF, 3.2


def is_cut(path, kind):
    """Whether the end of a file is missing; kind: its container, the first of FFmpeg's names."""
    size = os.path.getsize(path)
    if kind == 'mpegts':
        return all(size % packet for packet in TS_PACKETS)
    if kind == 'asf':
        return size < stated_size(path)
    with open(path, 'rb') as file:
        if kind in LENGTHS:
            return _beyond(file, size, *LENGTHS[kind])
        if kind in TAILS:
            start = file.read(TAIL)
            file.seek(max(0, size - TAIL))
            return TAILS[kind](file.read(), start)
    return False


def stated_size(path):
    """The bytes that a .wmv or .asf says it has, 0 where it says nothing. Where that is not so,
    FFmpeg tells no length."""
    with open(path, 'rb') as file:
        head = file.read(2 ** 16)
    at = head.find(FILE_PROPERTIES)
    is_live = at < 0 or head[at + 88:at + 89] in (b'', b'\1', b'\3')
    return 0 if is_live else int.from_bytes(head[at + 40:at + 48], 'little')


# ---- containers of parts that each begin with their length

def _beyond(file, size, length_of, slack=0):
    """Whether the last part of a file goes beyond its end. length_of(the first bytes of a part):
    how many it has, None where that is not told."""
    at = 0
    while at < size:
        file.seek(at)
        length = length_of(file.read(16))
        if not length:
            return False
        at += length
    return at > size + slack


def _box(head):
    """Of .mp4 and .mov (ISO/IEC 14496-12, 4.2)."""
    length = int.from_bytes(head[:4], 'big')
    if head[4:8] in BOXES:
        return int.from_bytes(head[8:16], 'big') if length == 1 else length


def _riff(head):
    """Of .avi: a list of all, and in large files more of them."""
    length = int.from_bytes(head[4:8], 'little')
    if head[:4] == b'RIFF' and 0 < length < 2 ** 32 - 1:
        return 8 + length + length % 2


def _element(head):
    """Of .mkv and .webm (RFC 8794, 4 and 5). One that is open to the end counts as its first bytes,
    behind which lie those that it holds."""
    name, rest = _leading(head)
    if head[:name] in ELEMENTS:
        after = name + rest
        bits = 7 * rest
        length = int.from_bytes(head[name:after], 'big') & (1 << bits) - 1
        if length < (1 << bits) - 1:
            return after + length
        return after if head[:name] in OPEN else None


def _leading(head):
    """How many bytes the two numbers have with which an element begins, each by its first bits."""
    name = 9 - head[0].bit_length()
    return name, 9 - (head[name] if len(head) > name else 1).bit_length()


# avi: some programs count the 8 bytes of its header too
LENGTHS = {'mov': (_box,), 'avi': (_riff, 8), 'matroska': (_element,)}


# ---- containers that are known by their last bytes: end, and start, of the file

def _cut_flv(end, start):
    """Each tag's length is repeated behind it (Adobe's specification of FLV, E.3), mostly."""
    at = int.from_bytes(start[5:9], 'big') + 4
    first = 11 + int.from_bytes(start[at + 1:at + 4], 'big')
    if int.from_bytes(start[at + first:at + first + 4], 'big') != first:  # not by this program
        return False
    last = int.from_bytes(end[-4:], 'big')
    return int.from_bytes(end[-4 - last:][1:4], 'big') != last - 11


def _cut_mpeg(end, start):
    """From the last pack on, packets follow each other up to the end (ISO/IEC 13818-1, 2.5.3)."""
    at = end.rfind(b'\0\0\1\xba')
    while at >= 0 and end[at:at + 3] == b'\0\0\1' and end[at + 3:at + 4] != b'\xb9':
        head = end[at:at + 14].ljust(14, b'\0')
        if head[3] != 0xba:
            at += 6 + int.from_bytes(head[4:6], 'big')
        else:  # in MPEG-1 its length is fixed
            at += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
    return at > len(end)


def _cut_ogg(end, start):
    """The last page is whole, and says that it is the last (RFC 3533, 6)."""
    page = end[max(0, end.rfind(b'OggS')):]
    segments = 27 + page[26] if len(page) > 26 else len(page) + 1
    return len(page) < segments + sum(page[27:segments]) or not page[5] & 4


def _cut_gif(end, start):
    """A block's end, and then the file's."""
    return not end.rstrip(FILLING).endswith(b'\0;')


def _cut_png(end, start):
    """An empty chunk with its check sum."""
    return not end.rstrip(FILLING).endswith(b'IEND\xaeB`\x82')


TAILS = {'flv': _cut_flv, 'mpeg': _cut_mpeg, 'ogg': _cut_ogg, 'gif': _cut_gif, 'apng': _cut_png}
