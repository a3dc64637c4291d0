/**
 * The file of an object: its bytes, then a footer in JSON, then eight bytes: the footer's length and a sign. Bytes and
 * metadata are one file, so that a rename replaces both at once and a reader has both of one version.
 */
import type { FileHandle } from "node:fs/promises"
import type * as ObjectStore from "@underlay/core/storage/ObjectStore"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"

const sign = "UOB1"
const tail = 8
const guess = 4_096

const Footer = Schema.parseJson(
  Schema.Struct({
    key: Schema.String,
    size: Schema.Number,
    etag: Schema.String,
    lastModified: Schema.Number,
    contentType: Schema.String,
    cacheControl: Schema.optionalWith(Schema.String, { exact: true }),
    contentDisposition: Schema.optionalWith(Schema.String, { exact: true }),
    contentEncoding: Schema.optionalWith(Schema.String, { exact: true }),
    contentLanguage: Schema.optionalWith(Schema.String, { exact: true }),
    metadata: Schema.Record({ key: Schema.String, value: Schema.String })
  })
)

/** What follows the bytes. The etag is their SHA-256 in hex. */
export const footerOf = (
  object: ObjectStore.StoredObject,
  attributes: ObjectStore.Attributes,
  lastModified: number
): Buffer => {
  const json = Buffer.from(
    JSON.stringify({
      key: object.key,
      size: object.size,
      etag: object.etag,
      lastModified,
      contentType: attributes.contentType ?? "application/octet-stream",
      cacheControl: attributes.cacheControl,
      contentDisposition: attributes.contentDisposition,
      contentEncoding: attributes.contentEncoding,
      contentLanguage: attributes.contentLanguage,
      metadata: attributes.metadata ?? {}
    })
  )
  const end = Buffer.alloc(tail)
  end.writeUInt32BE(json.length, 0)
  end.write(sign, 4, "latin1")
  return Buffer.concat([json, end])
}

const decode = Schema.decodeUnknownEither(Footer)

/** What is kept with the object of an open file; nothing where the file is none of ours, or damaged. */
export const readFooter = async (handle: FileHandle): Promise<ObjectStore.ObjectInfo | undefined> => {
  const { size: length } = await handle.stat()
  const first = Math.min(length, guess)
  let end = await readAt(handle, length - first, first)
  if (end.length < tail || end.toString("latin1", end.length - 4) !== sign) return undefined
  const json = end.readUInt32BE(end.length - tail)
  if (json + tail > length) return undefined
  if (json + tail > end.length) end = await readAt(handle, length - json - tail, json + tail)
  const decoded = decode(end.toString("utf8", end.length - tail - json, end.length - tail))
  if (Either.isLeft(decoded) || decoded.right.size !== length - json - tail) return undefined
  const footer = decoded.right
  return {
    ...footer,
    lastModified: new Date(footer.lastModified),
    checksum: { algorithm: "sha256", value: Buffer.from(footer.etag, "hex").toString("base64") }
  }
}

/** So many bytes from there on; fewer where the file ends. */
export const readAt = async (handle: FileHandle, position: number, length: number): Promise<Buffer> => {
  const buffer = Buffer.allocUnsafe(length)
  let filled = 0
  while (filled < length) {
    const { bytesRead } = await handle.read(buffer, filled, length - filled, position + filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return buffer.subarray(0, filled)
}

/** All of it, however little the system takes at once. */
export const writeAll = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
  let written = 0
  while (written < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, written, bytes.length - written)
    written += bytesWritten
  }
}
