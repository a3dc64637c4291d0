/**
 * Texts as bytes, compressed where that is worth it. Compressed bytes are plain gzip, told from text by their first two.
 */
import * as Buffers from "node:buffer"
import * as Zlib from "node:zlib"
import * as Effect from "effect/Effect"

/** Smaller ones are done at once: handing them to another thread takes longer. In bytes. */
const atOnce = 32 * 1024

const options = { level: Zlib.constants.Z_BEST_SPEED }

/** The text as its bytes, compressed if they are more than `above` and that makes them fewer. */
export const encode = (text: string, above: number | undefined): Effect.Effect<Buffer> => {
  const bytes = Buffers.Buffer.from(text)
  if (above === undefined || bytes.length <= above) return Effect.succeed(bytes)
  const smaller = (compressed: Buffer): Buffer => (compressed.length < bytes.length ? compressed : bytes)
  if (bytes.length <= atOnce) return Effect.sync(() => smaller(Zlib.gzipSync(bytes, options)))
  return Effect.async((resume) => {
    Zlib.gzip(bytes, options, (problem, compressed) =>
      resume(Effect.succeed(problem === null ? smaller(compressed) : bytes))
    )
  })
}

/** The text of bytes, or undefined where they are none. */
export const decode = (bytes: Uint8Array): Effect.Effect<string | undefined> =>
  bytes[0] === 0x1f && bytes[1] === 0x8b ? inflate(bytes) : Effect.succeed(textOf(bytes))

const textOf = (bytes: Uint8Array): string | undefined => {
  if (bytes.length > Buffers.constants.MAX_STRING_LENGTH) return undefined
  const text = Buffers.Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")
  // what is no UTF-8 is replaced by this, which can stand in a text too
  return text.includes("\ufffd") && !Buffers.isUtf8(bytes) ? undefined : text
}

/** A few bytes can stand for as many as there is memory. */
const limit = { maxOutputLength: 512 * 1024 * 1024 }

const inflate = (bytes: Uint8Array): Effect.Effect<string | undefined> =>
  Effect.async((resume) => {
    Zlib.gunzip(bytes, limit, (problem, plain) => resume(Effect.succeed(problem === null ? textOf(plain) : undefined)))
  })
