/**
 * The operations of memcached over its servers, plain: no span, no log line, no retry. Each is one request to one server
 * (`getMany` one pipeline for each server), sent once.
 */
import * as Crypto from "node:crypto"
import { ConnectionError, type ConnectionStats } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import { type Failure, Node, type Options as NodeOptions } from "./node.ts"
import * as Protocol from "./protocol.ts"
import * as Ring from "./ring.ts"

/** What was found at a key. */
export interface Item {
  readonly value: Buffer
  /** The 32 bits that were stored with it. */
  readonly flags: number
  /** Names this version of the item, for `cas`. */
  readonly cas: string
}

export interface WriteOptions {
  /** How long it is kept, in whole seconds rounded up. Default: until it is evicted. */
  readonly ttl?: Duration.DurationInput | undefined
  /** 32 bits to store with it: 0. */
  readonly flags?: number | undefined
}

export type Value = string | Uint8Array

export type CasResult = "stored" | "changed" | "missing"

export interface Client {
  readonly get: (key: string) => Effect.Effect<Option.Option<Item>, ConnectionError>
  readonly getMany: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Option.Option<Item>>, ConnectionError>
  readonly set: (key: string, value: Value, options?: WriteOptions) => Effect.Effect<void, ConnectionError>
  readonly add: (key: string, value: Value, options?: WriteOptions) => Effect.Effect<boolean, ConnectionError>
  readonly replace: (key: string, value: Value, options?: WriteOptions) => Effect.Effect<boolean, ConnectionError>
  readonly cas: (
    key: string,
    value: Value,
    cas: string,
    options?: WriteOptions
  ) => Effect.Effect<CasResult, ConnectionError>
  readonly delete: (key: string, cas?: string) => Effect.Effect<boolean, ConnectionError>
  readonly touch: (key: string, ttl: Duration.DurationInput) => Effect.Effect<boolean, ConnectionError>
  readonly increment: (
    key: string,
    options?: {
      readonly by?: number | bigint | undefined
      readonly initial?: number | bigint | undefined
      readonly ttl?: Duration.DurationInput | undefined
    }
  ) => Effect.Effect<Option.Option<bigint>, ConnectionError>
  readonly flush: Effect.Effect<void, ConnectionError>
  readonly serverStats: Effect.Effect<
    ReadonlyArray<{ readonly server: string; readonly stats: Readonly<Record<string, string>> }>,
    ConnectionError
  >
}

export interface Options extends Omit<NodeOptions, "address"> {
  readonly name: string
  readonly addresses: ReadonlyArray<Ring.Address>
  readonly keys: "refuse" | "hash"
  readonly keyPrefix: string
  readonly maxValueBytes: number
}

/** What the adapters of this package need beyond the operations. */
export interface Raw extends Client {
  /** Sends requests of several keys in one pipeline for each server; each has its own outcome. */
  readonly exchangeMany: (
    method: string,
    requests: ReadonlyArray<{ readonly key: string; readonly pieces: ReadonlyArray<string | Uint8Array> }>
  ) => Effect.Effect<ReadonlyArray<Either.Either<Protocol.Reply, ConnectionError>>>
  readonly maxValueBytes: number
  /** What stands for any text on the servers. */
  readonly keyOf: (key: string) => string
  /** Asks every server for a sign of life. */
  readonly ping: Effect.Effect<ReadonlyArray<Either.Either<void, ConnectionError>>>
  readonly stats: Effect.Effect<ConnectionStats>
  readonly close: Effect.Effect<void>
}

/** A key has at most so many bytes, none of them a space or a control character. */
export const longestKey = 250

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a key must not have
const forbidden = /[\u0000-\u0020\u007f]/

/** Halves of characters, which UTF-8 cannot tell from each other. */
const halves = /[\ud800-\udfff]/u

/** Why a text cannot be a key. */
export const keyProblem = (key: string): string | undefined => {
  if (key === "") return "a key is not empty"
  if (forbidden.test(key)) return "a key has no spaces and no control characters"
  if (halves.test(key)) return "a key is whole characters"
  const bytes = key.length * 3 <= longestKey ? key.length : Buffer.byteLength(key)
  return bytes > longestKey ? `a key has at most ${longestKey} bytes` : undefined
}

/** A key for any text: itself where it can be one, or its digest, which no other text has. */
export const hashedKey = (key: string): string =>
  keyProblem(key) === undefined && !key.startsWith(digestMark)
    ? key
    : `${digestMark}${Crypto.createHash("sha256")
        .update(key, halves.test(key) ? "utf16le" : "utf8")
        .digest("base64url")}`

const digestMark = "sha256:"

/** Longer times would be taken as dates, in seconds since 1970. */
const longestRelative = 30 * 24 * 3_600

/** What stands for a time to live in a request, of milliseconds; 0 is none. */
export const expiryOf = (millis: number, now: number): number => {
  const seconds = Math.max(1, Math.ceil(millis / 1_000))
  return seconds > longestRelative ? Math.ceil((now + millis) / 1_000) : seconds
}

/** The server's dates have 31 bits: what is later is taken and lost at once. */
export const latestExpiry = 0x7fff_ffff

const made = new WeakSet<Client>()

/** Whether `make` gave it. */
export const isRaw = (client: Client): client is Raw => made.has(client)

export const make = (options: Options): Raw => {
  const { addresses, keyPrefix, maxValueBytes, name } = options
  const nodes = addresses.map((address) => new Node({ ...options, address }))
  const indexOf = Ring.make(addresses)

  const nodeOf = (key: string): Node => nodes[nodes.length === 1 ? 0 : indexOf(key)] as Node

  const invalid = (method: string, description: string): ConnectionError =>
    new ConnectionError({
      reason: "InvalidRequest",
      kind: "memcached",
      connection: name,
      method,
      description,
      sent: false
    })

  const fromFailure = (method: string, failure: Failure): ConnectionError =>
    new ConnectionError({
      reason: failure.reason,
      kind: "memcached",
      connection: name,
      method,
      description: failure.description,
      sent: failure.sent,
      ...(failure.code === undefined ? {} : { code: failure.code }),
      ...(failure.retryAfter === undefined ? {} : { retryAfter: Duration.millis(failure.retryAfter) }),
      ...(failure.cause === undefined ? {} : { cause: failure.cause })
    })

  /** A refusal, as an error. Anything else is no reply to what was asked. */
  const refusal = (method: string, reply: Protocol.Reply): ConnectionError => {
    const fail = (reason: ConnectionError["reason"], description: string, sent = true) =>
      new ConnectionError({ reason, kind: "memcached", connection: name, method, description, sent, code: reply.code })
    switch (reply.code) {
      case "ERROR":
        return fail("Unsupported", "the server does not know this command: the meta protocol needs memcached 1.6")
      case "CLIENT_ERROR":
        if (/unauthenticated/.test(reply.text)) return fail("Authentication", "the server wants a login")
        return fail("InvalidRequest", clientErrors.get(reply.text) ?? "the server refused the request as malformed")
      case "SERVER_ERROR":
        if (/too large/.test(reply.text)) {
          return fail("InvalidRequest", "the value is larger than the server's items may be (1 MB, or its option -I)")
        }
        if (/out of memory/.test(reply.text)) {
          return fail("Throttled", "the server has no memory left for it and may evict nothing")
        }
        return fail("Unavailable", "the server could not do it")
      default:
        return fail("Unknown", "the server's reply is none to what was asked")
    }
  }

  const keyOf = (method: string, key: string): Either.Either<string, ConnectionError> => {
    const whole = keyPrefix + key
    if (options.keys === "hash") return Either.right(hashedKey(whole))
    const problem = keyProblem(whole)
    return problem === undefined
      ? Either.right(whole)
      : Either.left(invalid(method, `${problem} (keys: "hash" takes any)`))
  }

  const exchange = <A>(
    method: string,
    key: string,
    pieces: (key: string) => ReadonlyArray<string | Uint8Array>,
    read: (reply: Protocol.Reply) => A | undefined
  ): Effect.Effect<A, ConnectionError> =>
    Effect.suspend(() => {
      const sound = keyOf(method, key)
      if (Either.isLeft(sound)) return Effect.fail(sound.left)
      return nodeOf(sound.right).exchange<A, ConnectionError>(
        pieces(sound.right),
        (reply) => {
          const result = read(reply)
          return result === undefined ? Effect.fail(refusal(method, reply)) : Effect.succeed(result)
        },
        (failure) => Effect.fail(fromFailure(method, failure))
      )
    })

  const readItem = (reply: Protocol.Reply): Option.Option<Item> | undefined => {
    if (reply.code === "EN") return Option.none()
    if (reply.code !== "VA") return undefined
    return Option.some({
      value: reply.value,
      flags: Number(Protocol.flag(reply.flags, "f") ?? 0),
      cas: Protocol.flag(reply.flags, "c") ?? ""
    })
  }

  const exchangeMany: Raw["exchangeMany"] = (method, requests) =>
    Effect.suspend(() => {
      const results: Array<Either.Either<Protocol.Reply, ConnectionError>> = new Array(requests.length)
      const byNode = new Map<Node, Array<number>>()
      for (const [index, { key }] of requests.entries()) {
        const node = nodeOf(key)
        const places = byNode.get(node)
        if (places === undefined) byNode.set(node, [index])
        else places.push(index)
      }
      return Effect.as(
        Effect.forEach(
          byNode,
          ([node, places]) =>
            Effect.map(node.exchangeAll(places.map((place) => requests[place]?.pieces ?? [])), (replies) => {
              for (const [index, place] of places.entries()) {
                const reply = replies[index]
                if (reply !== undefined)
                  results[place] = Either.mapLeft(reply, (failure) => fromFailure(method, failure))
              }
            }),
          { concurrency: "unbounded", discard: true }
        ),
        results
      )
    })

  const writing = <A>(
    method: string,
    key: string,
    value: Value,
    write: WriteOptions | undefined,
    flags: string,
    read: (reply: Protocol.Reply) => A | undefined
  ): Effect.Effect<A, ConnectionError> =>
    Effect.flatMap(ttlOf(method, write?.ttl), (expiry) => {
      const size = typeof value === "string" ? Buffer.byteLength(value) : value.length
      if (size > maxValueBytes) {
        return Effect.fail(invalid(method, `the value is larger than ${maxValueBytes} bytes (maxValueBytes)`))
      }
      const bits = write?.flags ?? 0
      if (!(Number.isInteger(bits) && bits >= 0 && bits <= 0xffff_ffff)) {
        return Effect.fail(invalid(method, "flags are a whole number of 32 bits"))
      }
      return exchange(method, key, (key) => [`ms ${key} ${size} T${expiry} F${bits}${flags}\r\n`, value, "\r\n"], read)
    })

  const ttlOf = (method: string, ttl: Duration.DurationInput | undefined): Effect.Effect<number, ConnectionError> => {
    if (ttl === undefined) return Effect.succeed(0)
    const millis = Option.match(Duration.decodeUnknown(ttl), { onNone: () => Number.NaN, onSome: Duration.toMillis })
    if (!(millis > 0 && Number.isFinite(millis))) {
      return Effect.fail(
        invalid(method, "a time to live is longer than nothing and has an end; without one, leave it out")
      )
    }
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const expiry = expiryOf(millis, now)
      return expiry > latestExpiry
        ? Effect.fail(invalid(method, "a time to live ends before 2038-01-19, where the server's dates do"))
        : Effect.succeed(expiry)
    })
  }

  const stored = (reply: Protocol.Reply): boolean | undefined =>
    reply.code === "HD" ? true : reply.code === "NS" || reply.code === "NF" ? false : undefined

  const onEach = <A>(
    method: string,
    request: string,
    read: (reply: Protocol.Reply) => A | undefined
  ): Effect.Effect<ReadonlyArray<Either.Either<A, ConnectionError>>> =>
    Effect.forEach(
      nodes,
      (node) =>
        Effect.either(
          node.exchange<A, ConnectionError>(
            [request],
            (reply) => {
              const result = read(reply)
              return result === undefined ? Effect.fail(refusal(method, reply)) : Effect.succeed(result)
            },
            (failure) => Effect.fail(fromFailure(method, failure))
          )
        ),
      { concurrency: "unbounded" }
    )

  const allOf = <A>(results: ReadonlyArray<Either.Either<A, ConnectionError>>) => Effect.forEach(results, (one) => one)

  const client: Raw = {
    get: (key) => exchange("get", key, (key) => [`mg ${key} v f c\r\n`], readItem),
    getMany: (keys) =>
      Effect.suspend(() => {
        const sound = Either.all(keys.map((key) => keyOf("getMany", key)))
        if (Either.isLeft(sound)) return Effect.fail(sound.left)
        const distinct = [...new Set(sound.right)]
        return Effect.flatMap(
          exchangeMany(
            "getMany",
            distinct.map((key) => ({ key, pieces: [`mg ${key} v f c\r\n`] }))
          ),
          (replies) => {
            const found = new Map<string, Option.Option<Item>>()
            for (const [index, reply] of replies.entries()) {
              if (Either.isLeft(reply)) return Effect.fail(reply.left)
              const item = readItem(reply.right)
              if (item === undefined) return Effect.fail(refusal("getMany", reply.right))
              found.set(distinct[index] ?? "", item)
            }
            return Effect.succeed(sound.right.map((key) => found.get(key) ?? Option.none()))
          }
        )
      }),
    set: (key, value, write) =>
      Effect.asVoid(writing("set", key, value, write, "", (reply) => (reply.code === "HD" ? true : undefined))),
    add: (key, value, write) => writing("add", key, value, write, " ME", stored),
    replace: (key, value, write) => writing("replace", key, value, write, " MR", stored),
    cas: (key, value, cas, write) =>
      /^\d{1,20}$/.test(cas)
        ? writing<CasResult>("cas", key, value, write, ` C${cas}`, (reply) =>
            reply.code === "HD"
              ? "stored"
              : reply.code === "EX"
                ? "changed"
                : reply.code === "NF" || reply.code === "NS"
                  ? "missing"
                  : undefined
          )
        : Effect.fail(invalid("cas", "the version is none that `get` gave")),
    delete: (key, cas) =>
      cas !== undefined && !/^\d{1,20}$/.test(cas)
        ? Effect.fail(invalid("delete", "the version is none that `get` gave"))
        : exchange(
            "delete",
            key,
            (key) => [cas === undefined ? `md ${key}\r\n` : `md ${key} C${cas}\r\n`],
            (reply) => (reply.code === "EX" ? false : stored(reply))
          ),
    touch: (key, ttl) =>
      Effect.flatMap(ttlOf("touch", ttl), (expiry) =>
        exchange(
          "touch",
          key,
          (key) => [`mg ${key} T${expiry}\r\n`],
          (reply) => (reply.code === "HD" ? true : reply.code === "EN" ? false : undefined)
        )
      ),
    increment: (key, increment) =>
      Effect.flatMap(ttlOf("increment", increment?.ttl), (expiry) => {
        const by = whole(increment?.by ?? 1)
        const initial = increment?.initial === undefined ? undefined : whole(increment.initial)
        if (by === undefined || by > mostCounted || -by > mostCounted) {
          return Effect.fail(invalid("increment", "the step is a whole number of at most 64 bits"))
        }
        if (increment?.initial !== undefined && (initial === undefined || initial < 0n || initial > mostCounted)) {
          return Effect.fail(invalid("increment", "the first number is a whole one from 0, of at most 64 bits"))
        }
        const step = by < 0n ? ` MD D${-by}` : ` D${by}`
        const first = initial === undefined ? "" : ` N${expiry} J${initial}`
        const renewed = increment?.ttl === undefined || initial !== undefined ? "" : ` T${expiry}`
        return exchange(
          "increment",
          key,
          (key) => [`ma ${key} v${step}${first}${renewed}\r\n`],
          (reply): Option.Option<bigint> | undefined => {
            if (reply.code === "NF" || reply.code === "NS") return Option.none()
            if (reply.code !== "VA") return undefined
            const text = reply.value.toString("latin1").trim()
            return /^\d+$/.test(text) ? Option.some(BigInt(text)) : undefined
          }
        )
      }),
    flush: Effect.flatMap(
      onEach("flush", "flush_all\r\n", (reply) => (reply.code === "OK" ? true : undefined)),
      (results) => Effect.asVoid(allOf(results))
    ),
    serverStats: Effect.flatMap(
      onEach("serverStats", "stats\r\n", (reply) => (reply.code === "STATS" ? reply.entries : undefined)),
      (results) =>
        Effect.map(allOf(results), (all) =>
          all.map((entries, index) => ({
            server: `${addresses[index]?.host}:${addresses[index]?.port}`,
            stats: Object.fromEntries(entries)
          }))
        )
    ),
    exchangeMany,
    maxValueBytes,
    keyOf: (key) => hashedKey(keyPrefix + key),
    ping: Effect.map(
      onEach("health", "mn\r\n", (reply) => (reply.code === "MN" ? true : undefined)),
      (results) => results.map((one) => Either.map(one, () => undefined))
    ),
    stats: Effect.sync(() => {
      const counts = nodes.map((node) => node.counts)
      const sum = (f: (one: Node["counts"]) => number) => counts.reduce((total, one) => total + f(one), 0)
      const total = sum((one) => one.open)
      const inUse = sum((one) => one.busy)
      return {
        total,
        inUse,
        idle: total - inUse,
        waiting: sum((one) => one.waiting),
        acquire: {
          count: sum((one) => one.acquired.count),
          totalMs: sum((one) => one.acquired.totalMs),
          maxMs: Math.max(0, ...counts.map((one) => one.acquired.maxMs))
        }
      }
    }),
    close: Effect.sync(() => {
      for (const node of nodes) node.close()
    })
  }
  made.add(client)
  return client
}

const mostCounted = 2n ** 64n - 1n

const whole = (value: number | bigint): bigint | undefined =>
  typeof value === "bigint" ? value : Number.isSafeInteger(value) ? BigInt(value) : undefined

/** What the server says of a request, and what that means. */
const clientErrors: ReadonlyMap<string, string> = new Map([
  [
    "cannot increment or decrement non-numeric value",
    "what is kept there is no number, so it cannot be counted up or down"
  ],
  ["invalid numeric delta argument", "the step is no number that the server takes"]
])
