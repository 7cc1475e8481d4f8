// Guards the codecs of DCMTK and GDCM: an image that does not fit into memory gives the error of an undecodable image.
//
// A codec that gets no memory (memory.cc) throws an exception through DCMTK, and Orthanc then never answers the C-GET.
//
// GDCM allocates the memory of a JPEG 2000 frame by the sample size in the data set and in the first frame, but writes as
// much as the frame itself says. So a later frame with more bits was written beyond its block by every rendering and
// every transcoding. Debian builds GDCM with its assertions, so an image with impossible attributes ends the process.
#include <gdcmByteValue.h>
#include <gdcmJPEG2000Codec.h>
#include <gdcmPixmapReader.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dccodec.h>
#include <dcmtk/dcmdata/dcerror.h>

#include "reception.h"

namespace {

using Decode = OFCondition(const DcmXfer &, const DcmRepresentationParameter *, DcmPixelSequence *, DcmPolymorphOBOW &,
                           DcmStack &, OFBool &);

using DecodeFrame = std::pair<char *, size_t>(gdcm::JPEG2000Codec *, char *, size_t);

using ReadImage = bool(gdcm::PixmapReader *, const gdcm::MediaStorage &, bool);

Decode *const decode_pixels = reception::replaced<Decode>(
    "_ZN12DcmCodecList6decodeERK7DcmXferPK26DcmRepresentationParameterP16DcmPixelSequence"
    "R16DcmPolymorphOBOWR8DcmStackRb");
DecodeFrame *const decode_frame =
    reception::replaced<DecodeFrame>("_ZN4gdcm13JPEG2000Codec21DecodeByStreamsCommonEPcm");

ReadImage *const read_image =
    reception::replaced<ReadImage>("_ZN4gdcm12PixmapReader17ReadImageInternalERKNS_12MediaStorageEb");

// Returns a number of two bytes, or `absent` if the image lacks it. A JPEG 2000 file is always little endian.
unsigned number(const gdcm::DataSet &image, uint16_t element, unsigned absent)
{
    const gdcm::Tag tag(0x0028, element);
    const gdcm::ByteValue *const value =
        image.FindDataElement(tag) ? image.GetDataElement(tag).GetByteValue() : nullptr;
    if (value == nullptr || value->GetLength() < 2)
        return absent;
    const auto *const bytes = reinterpret_cast<const uint8_t *>(value->GetPointer());
    return static_cast<unsigned>(bytes[0] | bytes[1] << 8);
}

// Offsets in the size segment of the code stream (ISO 15444-1 A.5.1): the number of components, and the first component.
constexpr size_t COMPONENTS_AT = 40, FIRST_AT = 42, COMPONENT_BYTES = 3;

// Says whether a code stream has the number of components, and the bytes of each, for which GDCM allocates memory. A code
// stream in a JP2 file, which DICOM does not allow (PS3.5 A.4.4), may become others while it is decoded: it is refused.
bool as_expected(const gdcm::PixelFormat &expected, const char *stream, size_t size)
{
    const auto *const bytes = reinterpret_cast<const uint8_t *>(stream);
    if (size < FIRST_AT || std::memcmp(bytes, "\xff\x4f\xff\x51", 4) != 0)
        return false;
    const size_t components = static_cast<size_t>(bytes[COMPONENTS_AT] << 8 | bytes[COMPONENTS_AT + 1]);
    if (components != expected.GetSamplesPerPixel() || size < FIRST_AT + components * COMPONENT_BYTES)
        return false;
    for (size_t component = 0; component < components; ++component) {
        const unsigned bits = (bytes[FIRST_AT + component * COMPONENT_BYTES] & 0x7FU) + 1;
        if ((bits <= 8 ? 8 : bits <= 16 ? 16 : 32) != expected.GetBitsAllocated())
            return false;
    }
    return true;
}

} // namespace

OFCondition DcmCodecList::decode(const DcmXfer &fromType, const DcmRepresentationParameter *fromParam,
                                 DcmPixelSequence *fromPixSeq, DcmPolymorphOBOW &uncompressedPixelData,
                                 DcmStack &pixelStack, OFBool &removeOldRep)
{
    try {
        return decode_pixels(fromType, fromParam, fromPixSeq, uncompressedPixelData, pixelStack, removeOldRep);
    } catch (const std::bad_alloc &) {
        return EC_MemoryExhausted;
    }
}

std::pair<char *, size_t> gdcm::JPEG2000Codec::DecodeByStreamsCommon(char *stream, size_t size)
{
    if (as_expected(GetPixelFormat(), stream, size))
        return decode_frame(this, stream, size);
    std::fprintf(stderr, "codecs: a JPEG 2000 frame was not decoded because=its samples are not those of the image\n");
    return {nullptr, 0};
}

bool gdcm::PixmapReader::ReadImageInternal(const MediaStorage &storage, bool pixels)
{
    const DataSet &image = GetFile().GetDataSet();
    const unsigned samples = number(image, 0x0002, 1), rows = number(image, 0x0010, 0), columns = number(image, 0x0011, 0);
    if ((samples == 1 || samples == 3 || samples == 4) && rows > 0 && columns > 0)
        return read_image(this, storage, pixels);
    std::fprintf(stderr, "codecs: an image was not decoded because=it has %u x %u pixels of %u samples\n", rows, columns,
                 samples);
    return false;
}
