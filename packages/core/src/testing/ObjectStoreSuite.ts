/**
 * The behaviour of every `ObjectStore`. The cases write under prefixes of their own and remove what they wrote, so they
 * can run against a store that is in use.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import * as ObjectStore from "../storage/ObjectStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What not every store can do: `conditionalPut` (of many writers under a condition one wins), `checksums` (kept with the
 * object and given by `head`), `anyKey` (also keys that are no paths: `..`, `a//b`, `/a`), `conditionalGet` (also by time
 * and for `copy`), `ordered` (lists by the order of UTF-8 bytes whatever the characters).
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "conditionalPut" | "checksums" | "anyKey" | "conditionalGet" | "ordered"

type Store = Context.Tag.Service<ObjectStore.ObjectStore>
type Reason = ObjectStore.ObjectStoreErrorReason

const encoder = new TextEncoder()
const decoder = new TextDecoder()

const keysUnder = (store: Store, options: ObjectStore.ListOptions) =>
  Effect.map(Stream.runCollect(store.list(options)), (entries) =>
    Chunk.toReadonlyArray(entries).map((entry) => (entry._tag === "Object" ? entry.key : `${entry.prefix} (prefix)`))
  )

const withPrefix = <A, E>(
  use: (store: Store, prefix: string) => Effect.Effect<A, E>
): Effect.Effect<A, E | ObjectStore.ObjectStoreError, ObjectStore.ObjectStore> =>
  Effect.gen(function* () {
    const store = yield* ObjectStore.ObjectStore
    // The clock may stand still and the random numbers may be seeded, but hardly both in two runs at once.
    const prefix = `suite-${yield* Clock.currentTimeMillis}-${yield* Random.nextIntBetween(0, 2 ** 31)}/`
    return yield* Effect.ensuring(
      use(store, prefix),
      Effect.ignore(Effect.flatMap(keysUnder(store, { prefix }), (keys) => store.deleteMany(keys)))
    )
  })

const text = (store: Store, key: string, options?: ObjectStore.GetOptions) =>
  Effect.map(store.get(key, options), ({ bytes }) => decoder.decode(bytes))

const failsWith = <A, E, R>(expectation: string, reason: Reason, effect: Effect.Effect<A, E, R>) =>
  Suite.fails(expectation, effect, (error) => error instanceof ObjectStore.ObjectStoreError && error.reason === reason)

/** Bytes that do not repeat where buffers do. */
const pattern = (size: number): Uint8Array => {
  const bytes = new Uint8Array(size)
  let state = 1
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    bytes[i] = state >>> 16
  }
  return bytes
}

const pieces = (bytes: Uint8Array, size: number): Stream.Stream<Uint8Array> =>
  Stream.fromIterable(
    Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
  ).pipe(Stream.rechunk(1))

const whole = [
  Suite.test(
    "what is put is what is got: bytes of every value, text as UTF-8, nothing at all",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const bytes = Uint8Array.from({ length: 512 }, (_, i) => i & 255)
        const stored = yield* store.put(`${prefix}bytes`, bytes)
        yield* Suite.equal(
          "what put tells",
          { key: stored.key, size: stored.size },
          { key: `${prefix}bytes`, size: 512 }
        )
        yield* Suite.isTrue("an etag without quotes", stored.etag.length > 0 && !stored.etag.includes('"'))
        const got = yield* store.get(`${prefix}bytes`)
        yield* Suite.isTrue("the same bytes", Buffer.compare(got.bytes, bytes) === 0)
        yield* Suite.equal(
          "its etag and size",
          [got.info.etag, got.info.size, got.info.key],
          [stored.etag, 512, stored.key]
        )
        yield* Suite.equal("the whole", got.part, { offset: 0, length: 512 })
        yield* store.put(`${prefix}text`, "naïve 日本 🚀")
        yield* Suite.equal("the text", yield* text(store, `${prefix}text`), "naïve 日本 🚀")
        yield* store.put(`${prefix}nothing`, "")
        const nothing = yield* store.get(`${prefix}nothing`)
        yield* Suite.equal("nothing", [nothing.bytes.length, nothing.info.size], [0, 0])
      })
    )
  ),
  Suite.test(
    "a put replaces the object whole, attributes included",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const first = yield* store.put(key, "a longer text", { metadata: { one: "1" }, contentType: "text/plain" })
        const second = yield* store.put(key, "short")
        yield* Suite.isTrue("another etag", first.etag !== second.etag)
        const { bytes, info } = yield* store.get(key)
        yield* Suite.equal("the text", decoder.decode(bytes), "short")
        yield* Suite.equal("no metadata", info.metadata, {})
        yield* Suite.equal("the type", info.contentType, "application/octet-stream")
      })
    )
  ),
  Suite.test(
    "attributes are kept and given by get, open and head",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const attributes = {
          contentType: "text/plain; charset=utf-8",
          cacheControl: "max-age=60",
          contentDisposition: 'attachment; filename="a.txt"',
          contentEncoding: "identity",
          contentLanguage: "de",
          metadata: { "with-dash": "a, b; c=d", "x-2": "1", empty: "" }
        }
        yield* store.put(key, "x", attributes)
        const head = yield* store.head(key)
        const got = yield* store.get(key)
        const opened = yield* Effect.scoped(Effect.map(store.open(key), ({ info }) => info))
        for (const info of [head, got.info, opened]) {
          yield* Suite.equal(
            "attributes",
            {
              contentType: info.contentType,
              cacheControl: info.cacheControl,
              contentDisposition: info.contentDisposition,
              contentEncoding: info.contentEncoding,
              contentLanguage: info.contentLanguage,
              metadata: { empty: "", ...info.metadata }
            },
            { ...attributes, metadata: attributes.metadata }
          )
          yield* Suite.isTrue("a time", !Number.isNaN(info.lastModified.getTime()))
          yield* Suite.equal("size", info.size, 1)
        }
      })
    )
  ),
  Suite.test(
    "attributes and keys that cannot be kept everywhere are refused before anything is written",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        for (const options of [
          { metadata: { Upper: "x" } },
          { metadata: { under_score: "x" } },
          { metadata: { "": "x" } },
          { metadata: { a: "ü" } },
          { metadata: { a: "x\r\ny: z" } },
          { metadata: { a: " x" } },
          { metadata: { a: "x".repeat(2_048) } },
          { contentType: "text/plain\r\nx: y" },
          { contentType: "" },
          { cacheControl: "ü" },
          { size: -1 },
          { size: 1.5 }
        ]) {
          yield* failsWith("a refusal", "InvalidRequest", store.put(key, "x", options))
        }
        yield* Suite.equal("nothing was written", yield* store.exists(key), false)
        for (const bad of ["", "a\u0000b", "\ud800", "ü".repeat(513)]) {
          yield* failsWith("put", "InvalidKey", store.put(bad, "x"))
          yield* failsWith("get", "InvalidKey", store.get(bad))
          yield* failsWith("head", "InvalidKey", store.head(bad))
          yield* failsWith("exists", "InvalidKey", store.exists(bad))
          yield* failsWith("delete", "InvalidKey", store.delete(bad))
          yield* failsWith("copy", "InvalidKey", store.copy(key, bad))
          yield* failsWith("stream", "InvalidKey", Stream.runDrain(store.stream(bad)))
        }
      })
    )
  ),
  Suite.test(
    "what is not there is NotFound, and is told without the key in the message",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}private-name`
        const error = yield* failsWith("get", "NotFound", store.get(key))
        yield* Suite.isTrue("no key in the message", !String(error).includes("private-name"))
        yield* failsWith("head", "NotFound", store.head(key))
        yield* failsWith("open", "NotFound", Effect.scoped(store.open(key)))
        yield* failsWith("stream", "NotFound", Stream.runDrain(store.stream(key)))
        yield* failsWith("copy", "NotFound", store.copy(key, `${prefix}b`))
        yield* Suite.equal("exists", yield* store.exists(key), false)
        yield* store.delete(key)
      })
    )
  ),
  Suite.test(
    "delete removes, deleteMany tells of each key",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        yield* store.put(`${prefix}a`, "x")
        yield* Suite.equal("there", yield* store.exists(`${prefix}a`), true)
        yield* store.delete(`${prefix}a`)
        yield* Suite.equal("gone", yield* store.exists(`${prefix}a`), false)
        const keys = Array.from({ length: 12 }, (_, i) => `${prefix}many/<&">'${i} ü`)
        yield* Effect.forEach(keys, (key) => store.put(key, key), { concurrency: 4 })
        const { deleted, failed } = yield* store.deleteMany([...keys, `${prefix}absent`, keys[0] ?? "", ""])
        yield* Suite.equal("deleted", [...deleted].sort(), [...keys, `${prefix}absent`].sort())
        yield* Suite.equal(
          "failed",
          failed.map(({ error, key }) => [key, error.reason]),
          [["", "InvalidKey"]]
        )
        yield* Suite.equal("none is left", yield* keysUnder(store, { prefix }), [])
        yield* Suite.equal("of nothing", yield* store.deleteMany([]), { deleted: [], failed: [] })
      })
    )
  ),
  Suite.test(
    "copy takes bytes and attributes along, or other attributes, also onto itself",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const from = `${prefix}from ü+%/x`
        const stored = yield* store.put(from, "text", { contentType: "text/plain", metadata: { a: "1" } })
        const copied = yield* store.copy(from, `${prefix}to`)
        yield* Suite.equal("size", copied.size, 4)
        const to = yield* store.get(`${prefix}to`)
        yield* Suite.equal(
          "the copy",
          [decoder.decode(to.bytes), to.info.contentType, to.info.metadata],
          ["text", "text/plain", { a: "1" }]
        )
        yield* store.copy(from, from, { replace: { contentType: "text/html", metadata: { b: "2" } } })
        const replaced = yield* store.get(from)
        yield* Suite.equal(
          "replaced",
          [decoder.decode(replaced.bytes), replaced.info.contentType, replaced.info.metadata],
          ["text", "text/html", { b: "2" }]
        )
        yield* Suite.isTrue("an etag", stored.etag.length > 0)
      })
    )
  ),
  Suite.test(
    "names that look like one another are objects of their own",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const names = [
          "a",
          "A",
          "a/b",
          "a/b/c",
          "a.",
          "a ",
          "a%20",
          "a+b",
          "a b",
          "ä",
          "a\u0308",
          "con",
          "CON",
          "nul.txt"
        ]
        const more = [
          "~",
          "a?x=1",
          "a#b",
          "a&b=c",
          "'",
          '"',
          "<x>",
          "a\\b",
          "a:b",
          "a*b",
          "ａ",
          "🚀",
          "a\tb",
          "__proto__"
        ]
        const keys = [...names, ...more].map((name) => prefix + name)
        yield* Effect.forEach(keys, (key) => store.put(key, key, { metadata: { at: "x" } }), { concurrency: 4 })
        for (const key of keys) yield* Suite.equal(`the text of ${key}`, yield* text(store, key), key)
        yield* Suite.equal("all are listed", [...(yield* keysUnder(store, { prefix }))].sort(), [...keys].sort())
        yield* store.delete(`${prefix}a`)
        yield* Suite.equal("the prefix is still there", yield* text(store, `${prefix}a/b`), `${prefix}a/b`)
      })
    )
  ),
  Suite.testWith(
    "keys that are no paths are keys: dots, slashes at the start, doubled and at the end",
    ["anyKey"],
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const names = [
          "..",
          ".",
          "../x",
          "a/../b",
          "./a",
          "/a",
          "//a",
          "a//b",
          "a/",
          "a",
          "a/./b",
          "..a",
          "a/..",
          ".hidden"
        ]
        const keys = names.map((name) => prefix + name)
        yield* Effect.forEach(keys, (key) => store.put(key, key), { discard: true })
        for (const key of keys) yield* Suite.equal(`the text of ${key}`, yield* text(store, key), key)
        yield* Suite.equal("all are listed", [...(yield* keysUnder(store, { prefix }))].sort(), [...keys].sort())
        for (const key of ["../../etc/passwd", "..", "/etc/hostname", "."]) {
          yield* failsWith("nothing outside is seen", "NotFound", store.get(`${prefix}n/${key}`))
        }
      })
    )
  ),
  Suite.test(
    "keys of 1,024 bytes are kept",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = prefix + "k".repeat(1_024 - prefix.length)
        const wide = prefix + "ü".repeat(Math.floor((1_024 - prefix.length) / 2))
        yield* store.put(key, "long")
        yield* store.put(wide, "wide")
        yield* Suite.equal("long", yield* text(store, key), "long")
        yield* Suite.equal("wide", yield* text(store, wide), "wide")
        yield* Suite.equal("listed", [...(yield* keysUnder(store, { prefix }))].sort(), [key, wide].sort())
      })
    )
  )
]

const ranges = [
  Suite.test(
    "ranges: from, a length, the last, beyond the end",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        yield* store.put(key, "0123456789")
        const read = (range: ObjectStore.Range) => text(store, key, { range })
        yield* Suite.equal("from", yield* read({ offset: 7 }), "789")
        yield* Suite.equal("from the start", yield* read({ offset: 0, length: 1 }), "0")
        yield* Suite.equal("the midst", yield* read({ offset: 3, length: 4 }), "3456")
        yield* Suite.equal("more than there is", yield* read({ offset: 8, length: 100 }), "89")
        yield* Suite.equal("the last", yield* read({ last: 3 }), "789")
        yield* Suite.equal("more last than there is", yield* read({ last: 100 }), "0123456789")
        const { info, part } = yield* store.get(key, { range: { offset: 3, length: 4 } })
        yield* Suite.equal(
          "size of the whole, and where the part lies",
          [info.size, part],
          [10, { offset: 3, length: 4 }]
        )
        yield* failsWith("beyond the end", "InvalidRange", store.get(key, { range: { offset: 10 } }))
        for (const range of [
          { offset: -1 },
          { offset: 0, length: 0 },
          { last: 0 },
          { offset: 0.5 },
          { last: Number.NaN }
        ]) {
          yield* failsWith("no range", "InvalidRange", store.get(key, { range }))
        }
        const streamed = yield* ObjectStore.collect(store.stream(key, { range: { offset: 2, length: 5 } }))
        yield* Suite.equal("streamed", decoder.decode(streamed), "23456")
      })
    )
  ),
  Suite.test(
    "a stream is written and read as it is, in pieces of any size",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const bytes = pattern(300_001)
        for (const [name, size] of [
          ["odd", 7_919],
          ["large", 300_001]
        ] as const) {
          const stored = yield* store.put(prefix + name, pieces(bytes, size))
          yield* Suite.equal("size", stored.size, bytes.length)
          const streamed = yield* ObjectStore.collect(store.stream(prefix + name))
          yield* Suite.isTrue("the same bytes", Buffer.compare(streamed, bytes) === 0)
        }
        yield* store.put(`${prefix}known`, pieces(bytes, 10_000), { size: bytes.length })
        const opened = yield* Effect.scoped(
          Effect.flatMap(store.open(`${prefix}known`), ({ body, part }) =>
            Effect.map(ObjectStore.collect(body), (all) => ({ all, part }))
          )
        )
        yield* Suite.isTrue("open gives them too", Buffer.compare(opened.all, bytes) === 0)
        yield* Suite.equal("and how many", opened.part, { offset: 0, length: bytes.length })
        yield* store.put(`${prefix}none`, Stream.empty)
        yield* Suite.equal("an empty stream", (yield* store.head(`${prefix}none`)).size, 0)
        yield* store.put(`${prefix}holes`, Stream.make(new Uint8Array(0), encoder.encode("x"), new Uint8Array(0)))
        yield* Suite.equal("pieces of nothing", yield* text(store, `${prefix}holes`), "x")
      })
    )
  ),
  Suite.test(
    "a stream that fails, is interrupted or has another length leaves what was there before",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        yield* store.put(key, "before")
        const some = pieces(pattern(200_000), 50_000)
        const error = yield* Effect.flip(store.put(key, Stream.concat(some, Stream.fail("mine" as const))))
        yield* Suite.equal("its own error", error, "mine")
        yield* failsWith("too short", "InvalidRequest", store.put(key, some, { size: 200_001 }))
        yield* failsWith("too long", "InvalidRequest", store.put(key, some, { size: 199_999 }))
        yield* failsWith("text of another length", "InvalidRequest", store.put(key, "abc", { size: 2 }))
        const fiber = yield* Effect.fork(store.put(key, Stream.concat(some, Stream.never)))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(fiber)
        yield* Suite.equal("what was there", yield* text(store, key), "before")
        yield* Suite.equal("nothing else", yield* keysUnder(store, { prefix }), [key])
      })
    )
  ),
  Suite.test(
    "a stream that is left early can be read again",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const bytes = pattern(400_000)
        yield* store.put(key, bytes)
        for (let i = 0; i < 5; i++) yield* Stream.runDrain(Stream.take(store.stream(key), 1))
        yield* Effect.scoped(Effect.asVoid(store.open(key)))
        yield* Suite.isTrue("all of it", Buffer.compare(yield* ObjectStore.collect(store.stream(key)), bytes) === 0)
      })
    )
  ),
  Suite.test(
    "whoever reads while others write reads one of the objects, whole",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const of = (letter: string) => letter.repeat(100_000)
        yield* store.put(key, of("a"))
        const write = Effect.forEach(["b", "c", "d", "e", "f", "g"], (letter) => store.put(key, of(letter)))
        const read = Effect.repeatN(
          Effect.flatMap(store.get(key), ({ bytes, info }) => {
            const seen = decoder.decode(bytes)
            return Suite.isTrue("one of them, whole", seen === of(seen.charAt(0)) && info.size === 100_000)
          }),
          20
        )
        yield* Effect.all([write, write, read, read], { concurrency: "unbounded", discard: true })
      })
    )
  )
]

const conditions = [
  Suite.test(
    "conditions of a read by etag",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const first = yield* store.put(key, "one")
        const { etag } = yield* store.put(key, "two")
        yield* Suite.equal("ifMatch", yield* text(store, key, { ifMatch: etag }), "two")
        yield* failsWith("ifMatch of another", "Conflict", store.get(key, { ifMatch: first.etag }))
        yield* failsWith("ifNoneMatch", "NotModified", store.get(key, { ifNoneMatch: etag }))
        yield* Suite.equal("ifNoneMatch of another", yield* text(store, key, { ifNoneMatch: first.etag }), "two")
        yield* failsWith("head: ifMatch of another", "Conflict", store.head(key, { ifMatch: first.etag }))
        yield* failsWith("head: ifNoneMatch", "NotModified", store.head(key, { ifNoneMatch: etag }))
        yield* failsWith("a stream", "Conflict", Stream.runDrain(store.stream(key, { ifMatch: first.etag })))
        yield* failsWith("no etag", "InvalidRequest", store.get(key, { ifMatch: '"quoted"' }))
      })
    )
  ),
  Suite.testWith(
    "conditions of a read by time, and of a copy by its source",
    ["conditionalGet"],
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const stored = yield* store.put(key, "one")
        const { lastModified } = yield* store.head(key)
        const later = new Date(lastModified.getTime() + 60_000)
        const earlier = new Date(lastModified.getTime() - 60_000)
        yield* Suite.equal("modified since", yield* text(store, key, { ifModifiedSince: earlier }), "one")
        yield* failsWith("not modified since", "NotModified", store.get(key, { ifModifiedSince: lastModified }))
        yield* Suite.equal("unmodified since", yield* text(store, key, { ifUnmodifiedSince: later }), "one")
        yield* failsWith("not unmodified since", "Conflict", store.get(key, { ifUnmodifiedSince: earlier }))
        yield* failsWith("no date", "InvalidRequest", store.get(key, { ifModifiedSince: new Date(Number.NaN) }))
        yield* store.copy(key, `${prefix}b`, { ifSourceMatch: stored.etag })
        yield* failsWith("another source", "Conflict", store.copy(key, `${prefix}c`, { ifSourceMatch: "other" }))
        yield* Suite.equal("not copied", yield* store.exists(`${prefix}c`), false)
      })
    )
  ),
  Suite.testWith(
    "a put under a condition",
    ["conditionalPut"],
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const key = `${prefix}a`
        const { etag } = yield* store.put(key, "one", { ifNoneMatch: "*" })
        yield* failsWith("it is there", "Conflict", store.put(key, "two", { ifNoneMatch: "*" }))
        const next = yield* store.put(key, "two", { ifMatch: etag })
        yield* failsWith("it is another", "Conflict", store.put(key, "three", { ifMatch: etag }))
        yield* failsWith("there is none", "Conflict", store.put(`${prefix}b`, "x", { ifMatch: etag }))
        yield* Suite.equal("what won", yield* text(store, key), "two")
        yield* failsWith("both", "InvalidRequest", store.put(key, "x", { ifMatch: next.etag, ifNoneMatch: "*" }))
        yield* store.delete(key)
        yield* store.put(key, "again", { ifNoneMatch: "*" })
      })
    )
  ),
  Suite.testWith(
    "of 20 who create one object exactly one wins, also in streams, and of 20 who replace it one",
    ["conditionalPut"],
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const race = (who: string, key: string, options: ObjectStore.PutOptions, streams: boolean) =>
          Effect.gen(function* () {
            const results = yield* Effect.forEach(
              Array.from({ length: 20 }, (_, i) => `${who} ${i}`),
              (racer) =>
                (streams
                  ? store.put(key, Stream.make(encoder.encode(racer)), options)
                  : store.put(key, racer, options)
                ).pipe(
                  Effect.as(racer),
                  // A server that is overrun may refuse some, who ask again.
                  Effect.retry({ times: 5, while: (error) => error.isRetryable }),
                  Effect.either
                ),
              { concurrency: "unbounded" }
            )
            const winners = results.flatMap((result) => (Either.isRight(result) ? [result.right] : []))
            const reasons = new Set(results.flatMap((result) => (Either.isLeft(result) ? [result.left.reason] : [])))
            yield* Suite.equal("winners", winners.length, 1)
            yield* Suite.equal("the others", [...reasons], ["Conflict"])
            yield* Suite.equal("what is there", yield* text(store, key), winners[0])
          })
        yield* race("maker", `${prefix}a`, { ifNoneMatch: "*" }, false)
        yield* race("maker", `${prefix}b`, { ifNoneMatch: "*" }, true)
        const { etag } = yield* store.head(`${prefix}a`)
        // Of other bytes than before: the same bytes would have the same etag again.
        yield* race("replacer", `${prefix}a`, { ifMatch: etag }, false)
      })
    )
  )
]

// Of "abc": SHA-256 of FIPS 180-2. Of "123456789": CRC-32C of its catalogue, e3069283.
const sha256 = { algorithm: "sha256", value: "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=" } as const
const crc32c = { algorithm: "crc32c", value: "4waSgw==" } as const

const checksums = [
  Suite.test(
    "bytes with another checksum than they should have are not written",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        yield* store.put(`${prefix}a`, "abc", { checksum: sha256 })
        yield* store.put(`${prefix}b`, "123456789", { checksum: crc32c })
        yield* store.put(`${prefix}c`, Stream.make(encoder.encode("a"), encoder.encode("bc")), { checksum: sha256 })
        yield* Suite.equal("written", yield* text(store, `${prefix}c`), "abc")
        yield* failsWith("bytes", "ChecksumMismatch", store.put(`${prefix}d`, "abd", { checksum: sha256 }))
        const stream = Stream.make(encoder.encode("123"), encoder.encode("45678"))
        yield* failsWith("a stream", "ChecksumMismatch", store.put(`${prefix}d`, stream, { checksum: crc32c }))
        const bad = { algorithm: "sha256", value: "abc" } as const
        yield* failsWith("no checksum", "InvalidRequest", store.put(`${prefix}d`, "abc", { checksum: bad }))
        yield* Suite.equal("nothing was written", yield* store.exists(`${prefix}d`), false)
      })
    )
  ),
  Suite.testWith(
    "a checksum is kept with the object",
    ["checksums"],
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        yield* store.put(`${prefix}a`, "abc", { checksum: sha256 })
        yield* Suite.equal("head", (yield* store.head(`${prefix}a`)).checksum, sha256)
        yield* Suite.equal("get", (yield* store.get(`${prefix}a`)).info.checksum, sha256)
      })
    )
  )
]

const lists = [
  Suite.test(
    "a list gives every object with its size and etag, in pages of any size",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const keys = Array.from({ length: 23 }, (_, i) => `${prefix}k${String(i).padStart(2, "0")}`)
        const stored = yield* Effect.forEach(keys, (key, i) => store.put(key, "x".repeat(i)), { concurrency: 4 })
        for (const pageSize of [1, 7, 23, 1_000]) {
          yield* Suite.equal(`pages of ${pageSize}`, yield* keysUnder(store, { prefix, pageSize }), keys)
        }
        const entries = yield* Stream.runCollect(store.list({ prefix }))
        yield* Suite.equal(
          "sizes and etags",
          [...entries].flatMap((entry) => (entry._tag === "Object" ? [[entry.key, entry.size, entry.etag]] : [])),
          stored.map(({ etag, key, size }) => [key, size, etag])
        )
        yield* Suite.equal(
          "startAfter",
          yield* keysUnder(store, { prefix, startAfter: `${prefix}k19` }),
          keys.slice(20)
        )
        yield* Suite.equal(
          "startAfter between",
          yield* keysUnder(store, { prefix, startAfter: `${prefix}k195` }),
          keys.slice(20)
        )
        yield* Suite.equal("startAfter the end", yield* keysUnder(store, { prefix, startAfter: `${prefix}z` }), [])
        yield* Suite.equal("no such prefix", yield* keysUnder(store, { prefix: `${prefix}none` }), [])
        yield* Suite.equal(
          "the first of many",
          [...(yield* Stream.runCollect(Stream.take(store.list({ prefix, pageSize: 2 }), 3)))].length,
          3
        )
        for (const pageSize of [0, 1_001, 1.5]) {
          yield* failsWith("no size of a page", "InvalidRequest", Stream.runDrain(store.list({ pageSize })))
        }
        yield* failsWith("no delimiter", "InvalidRequest", Stream.runDrain(store.list({ delimiter: "" })))
      })
    )
  ),
  Suite.test(
    "a delimiter puts keys together under common prefixes, each once whatever the pages",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const names = ["a", "b/1", "b/2", "b/3", "b/c/4", "c", "d/1", "e"]
        yield* Effect.forEach(names, (name) => store.put(prefix + name, "x"), { concurrency: 4 })
        const expected = ["a", "b/ (prefix)", "c", "d/ (prefix)", "e"].map((name) => prefix + name)
        for (const pageSize of [1, 2, 3, 1_000]) {
          yield* Suite.equal(
            `pages of ${pageSize}`,
            yield* keysUnder(store, { prefix, delimiter: "/", pageSize }),
            expected
          )
        }
        const under = yield* keysUnder(store, { prefix: `${prefix}b/`, delimiter: "/" })
        yield* Suite.equal(
          "below",
          under,
          ["b/1", "b/2", "b/3", "b/c/ (prefix)"].map((name) => prefix + name)
        )
      })
    )
  ),
  Suite.testWith(
    "the order is that of the bytes of UTF-8",
    ["ordered"],
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const names = ["!", "A", "Z", "a", "a!", "a/b", "a0", "z", "é", "ﬀ", "\u{ffee}", "😀", "🚀"]
        yield* Effect.forEach([...names].reverse(), (name) => store.put(prefix + name, "x"), { concurrency: 4 })
        const expected = names.map((name) => prefix + name)
        yield* Suite.equal("all", yield* keysUnder(store, { prefix }), expected)
        yield* Suite.equal("in pages", yield* keysUnder(store, { prefix, pageSize: 2 }), expected)
        yield* Suite.equal(
          "after",
          yield* keysUnder(store, { prefix, startAfter: `${prefix}ﬀ`, pageSize: 1 }),
          expected.slice(10)
        )
      })
    )
  ),
  Suite.test(
    "what is there throughout is listed once, whatever is written and deleted meanwhile",
    withPrefix((store, prefix) =>
      Effect.gen(function* () {
        const keys = Array.from({ length: 20 }, (_, i) => `${prefix}k${String(i).padStart(2, "0")}`)
        yield* Effect.forEach(keys, (key) => store.put(key, "x"), { concurrency: 4 })
        let seen = 0
        const listed = yield* store.list({ prefix, pageSize: 3 }).pipe(
          Stream.rechunk(1),
          Stream.tap(() => {
            seen++
            return seen % 4 === 0
              ? Effect.zipRight(store.put(`${prefix}a${seen}`, "new"), store.delete(keys[1] ?? ""))
              : Effect.void
          }),
          Stream.runCollect
        )
        const found = [...listed].flatMap((entry) => (entry._tag === "Object" ? [entry.key] : []))
        const lasting = keys.filter((_, i) => i !== 1)
        yield* Suite.equal(
          "all that stayed",
          found.filter((key) => lasting.includes(key)),
          lasting
        )
        yield* Suite.equal("none twice", new Set(found).size, found.length)
      })
    )
  )
]

/**
 * The suite.
 *
 * @since 0.1.0
 * @category testing
 */
export const suite: Suite.Suite<Capability, ObjectStore.ObjectStore> = Suite.make("ObjectStore", [
  ...whole,
  ...ranges,
  ...conditions,
  ...checksums,
  ...lists
])
