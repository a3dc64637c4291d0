/**
 * Commands with typed results: `RedisCommand.get(key)` is a value that says what is sent and how the reply is read. It is
 * run alone, in a pipeline or in a transaction. A reply of another shape is a typed error, never a defect.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as RedisClient from "./RedisClient.ts"
import { RedisError } from "./RedisError.ts"

/**
 * A command, or a script with its keys and arguments, with the reading of its reply.
 *
 * @since 0.1.0
 * @category models
 */
export interface RedisCommand<out A> {
  readonly step: RedisClient.Step
  readonly decode: Decode<A>
}

/**
 * Reads a reply: gives `unexpected` for one of another shape.
 *
 * @since 0.1.0
 * @category models
 */
export type Decode<out A> = (reply: RedisClient.Reply) => A | typeof unexpected

/**
 * What a `Decode` gives for a reply that the command cannot have.
 *
 * @since 0.1.0
 * @category models
 */
export const unexpected: unique symbol = Symbol.for("@underlay/redis/RedisCommand/unexpected")

/**
 * The result of a command.
 *
 * @since 0.1.0
 * @category models
 */
export type Result<C> = C extends RedisCommand<infer A> ? A : never

/**
 * What can run commands: the client, and an isolated connection.
 *
 * @since 0.1.0
 * @category models
 */
export type Runner = Pick<RedisClient.Service, "send" | "sendMany" | "run" | "transaction">

/**
 * A command of one's own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A>(
  name: string,
  args: ReadonlyArray<RedisClient.RedisArgument>,
  decode: Decode<A>
): RedisCommand<A> => ({ step: [name, ...args], decode })

/**
 * The commands of a script: give it keys and arguments.
 *
 * @since 0.1.0
 * @category constructors
 */
export const script =
  <A>(script: RedisClient.Script, decode: Decode<A>) =>
  (keys: ReadonlyArray<string>, args: ReadonlyArray<RedisClient.RedisArgument> = []): RedisCommand<A> => ({
    step: { script, keys, args },
    decode
  })

/**
 * The command with another result.
 *
 * @since 0.1.0
 * @category combinators
 */
export const map = <A, B>(self: RedisCommand<A>, f: (value: A) => B): RedisCommand<B> => ({
  step: self.step,
  decode: (reply) => {
    const value = self.decode(reply)
    return value === unexpected ? unexpected : f(value)
  }
})

/**
 * Runs a command.
 *
 * @since 0.1.0
 * @category combinators
 */
export const execute = <A>(
  client: Pick<Runner, "send" | "run">,
  command: RedisCommand<A>
): Effect.Effect<A, RedisError> => {
  const { step } = command
  const reply = "script" in step ? client.run(step.script, step.keys, step.args) : client.send(...step)
  return Effect.flatMap(reply, (reply) => read(command, reply))
}

/**
 * Runs several commands in one go; each has its own result. They are not a transaction.
 *
 * @since 0.1.0
 * @category combinators
 */
export const pipeline = <const C extends ReadonlyArray<RedisCommand<unknown>>>(
  client: Pick<Runner, "sendMany">,
  commands: C
): Effect.Effect<{ readonly [K in keyof C]: Either.Either<Result<C[K]>, RedisError> }> =>
  Effect.map(client.sendMany(commands.map(({ step }) => step)), (results) => readAll(commands, results))

/**
 * Runs several commands between `MULTI` and `EXEC`, as `RedisClient.Service.transaction` says: none is run where the
 * server refuses one when it is queued; one that fails when it runs is its own `Left`, and the others are done.
 *
 * @since 0.1.0
 * @category combinators
 */
export const transaction = <const C extends ReadonlyArray<RedisCommand<unknown>>>(
  client: Pick<Runner, "transaction">,
  commands: C
): Effect.Effect<{ readonly [K in keyof C]: Either.Either<Result<C[K]>, RedisError> }, RedisError> =>
  Effect.map(client.transaction(commands.map(({ step }) => step)), (results) => readAll(commands, results))

const read = <A>({ decode, step }: RedisCommand<A>, reply: RedisClient.Reply): Either.Either<A, RedisError> => {
  const value = decode(reply)
  if (value !== unexpected) return Either.right(value)
  return Either.left(
    new RedisError({
      reason: "Unexpected",
      outcome: "unknown",
      method: "script" in step ? step.script.name : step[0],
      description: "the reply has another shape than this command can have"
    })
  )
}

const readAll = <C extends ReadonlyArray<RedisCommand<unknown>>>(
  commands: C,
  results: ReadonlyArray<Either.Either<RedisClient.Reply, RedisError>>
) =>
  commands.map((command, index) => {
    const result = results[index]
    return result === undefined || Either.isLeft(result) ? result : read(command, result.right)
  }) as { readonly [K in keyof C]: Either.Either<Result<C[K]>, RedisError> }

// ---- readings of replies

/**
 * Readings of replies, to make others of.
 *
 * @since 0.1.0
 * @category combinators
 */
export const Reply = {
  /** Any text. */
  text: ((reply) => (typeof reply === "string" ? reply : unexpected)) as Decode<string>,
  /** Any text, or none for null. */
  optionalText: ((reply) =>
    typeof reply === "string" ? Option.some(reply) : reply === null ? Option.none() : unexpected) as Decode<
    Option.Option<string>
  >,
  /** An integer. */
  integer: ((reply) => (typeof reply === "number" ? reply : unexpected)) as Decode<number>,
  /** An integer, or none for null. */
  optionalInteger: ((reply) =>
    typeof reply === "number" ? Option.some(reply) : reply === null ? Option.none() : unexpected) as Decode<
    Option.Option<number>
  >,
  /** A number as text: `1.5`, `inf`, `-inf`. */
  float: ((reply) => number(reply)) as Decode<number>,
  /** A number as text, or none for null. */
  optionalFloat: ((reply) => {
    if (reply === null) return Option.none()
    const value = number(reply)
    return value === unexpected ? unexpected : Option.some(value)
  }) as Decode<Option.Option<number>>,
  /** 1 or 0. */
  boolean: ((reply) => (reply === 1 ? true : reply === 0 ? false : unexpected)) as Decode<boolean>,
  /** `OK`. */
  ok: ((reply) => (reply === "OK" ? undefined : unexpected)) as Decode<void>,
  /** `OK`, or null where a condition did not hold. */
  done: ((reply) => (reply === "OK" ? true : reply === null ? false : unexpected)) as Decode<boolean>,
  /** Anything. */
  any: ((reply) => reply) as Decode<RedisClient.Reply>,
  /** A list, each element read. */
  list:
    <A>(of: Decode<A>): Decode<ReadonlyArray<A>> =>
    (reply) => {
      if (!Array.isArray(reply)) return unexpected
      const list: Array<A> = []
      for (const element of reply as ReadonlyArray<RedisClient.Reply>) {
        const value = of(element)
        if (value === unexpected) return unexpected
        list.push(value)
      }
      return list
    },
  /** A list, or an empty one for null. */
  listOrNull:
    <A>(of: Decode<A>): Decode<ReadonlyArray<A>> =>
    (reply) =>
      reply === null ? [] : Reply.list(of)(reply),
  /** Names and values in turns. */
  map:
    <A>(of: Decode<A>): Decode<ReadonlyMap<string, A>> =>
    (reply) => {
      if (!Array.isArray(reply) || reply.length % 2 !== 0) return unexpected
      const map = new Map<string, A>()
      for (let index = 0; index < reply.length; index += 2) {
        const name: RedisClient.Reply = reply[index]
        const value = of(reply[index + 1])
        if (typeof name !== "string" || value === unexpected) return unexpected
        map.set(name, value)
      }
      return map
    }
}

const number = (reply: RedisClient.Reply): number | typeof unexpected => {
  if (typeof reply === "number") return reply
  if (typeof reply !== "string" || reply === "") return unexpected
  if (/^[+-]?inf(?:inity)?$/i.test(reply)) return reply.startsWith("-") ? -Infinity : Infinity
  const value = Number(reply)
  return Number.isNaN(value) ? unexpected : value
}

/** Milliseconds, whole and at least one: Redis takes a time of zero for an error, or deletes the key. */
const millis = (time: Duration.DurationInput): number =>
  Math.min(Math.max(1, Math.ceil(Duration.toMillis(time))), Number.MAX_SAFE_INTEGER)

const float = (value: number): string => (value === Infinity ? "+inf" : value === -Infinity ? "-inf" : String(value))

// ---- strings

/**
 * `GET`: the text at a key.
 *
 * @since 0.1.0
 * @category strings
 */
export const get = (key: string): RedisCommand<Option.Option<string>> => make("GET", [key], Reply.optionalText)

/**
 * `GETDEL`: the text at a key, which is gone then.
 *
 * @since 0.1.0
 * @category strings
 */
export const getDel = (key: string): RedisCommand<Option.Option<string>> => make("GETDEL", [key], Reply.optionalText)

/**
 * `GETEX`: the text at a key, which lives for `ttl` from now on.
 *
 * @since 0.1.0
 * @category strings
 */
export const getEx = (key: string, ttl: Duration.DurationInput): RedisCommand<Option.Option<string>> =>
  make("GETEX", [key, "PX", millis(ttl)], Reply.optionalText)

/**
 * How a text is set.
 *
 * @since 0.1.0
 * @category models
 */
export interface SetOptions {
  /** How long the key lives. Default: for ever, which is rarely what is wanted. */
  readonly ttl?: Duration.DurationInput | "keep" | undefined
  /** Sets only where there is none, or only where there is one. */
  readonly onlyIf?: "absent" | "present" | undefined
}

const setArguments = ({ onlyIf, ttl }: SetOptions): ReadonlyArray<RedisClient.RedisArgument> => [
  ...(ttl === undefined ? [] : ttl === "keep" ? ["KEEPTTL"] : ["PX", millis(ttl)]),
  ...(onlyIf === undefined ? [] : [onlyIf === "absent" ? "NX" : "XX"])
]

/**
 * `SET`: whether it was set; false only where `onlyIf` did not hold.
 *
 * @since 0.1.0
 * @category strings
 */
export const set = (key: string, value: RedisClient.RedisArgument, options: SetOptions = {}): RedisCommand<boolean> =>
  make("SET", [key, value, ...setArguments(options)], Reply.done)

/**
 * `SET … GET`: sets a text and gives what was there before.
 *
 * @since 0.1.0
 * @category strings
 */
export const setGet = (
  key: string,
  value: RedisClient.RedisArgument,
  options: SetOptions = {}
): RedisCommand<Option.Option<string>> => make("SET", [key, value, ...setArguments(options), "GET"], Reply.optionalText)

/**
 * `MGET`: the texts at several keys, in their order. On a Cluster they must share one slot.
 *
 * @since 0.1.0
 * @category strings
 */
export const mGet = (keys: ReadonlyArray<string>): RedisCommand<ReadonlyArray<Option.Option<string>>> =>
  make("MGET", keys, Reply.list(Reply.optionalText))

/**
 * `MSET`: sets several texts at once. On a Cluster the keys must share one slot.
 *
 * @since 0.1.0
 * @category strings
 */
export const mSet = (entries: Iterable<readonly [key: string, value: RedisClient.RedisArgument]>): RedisCommand<void> =>
  make("MSET", [...entries].flat(), Reply.ok)

/**
 * `INCRBY`: the number after it was changed; an absent one counts from 0.
 *
 * @since 0.1.0
 * @category strings
 */
export const incrBy = (key: string, by = 1): RedisCommand<number> => make("INCRBY", [key, by], Reply.integer)

/**
 * `INCRBYFLOAT`: the number after it was changed; an absent one counts from 0.
 *
 * @since 0.1.0
 * @category strings
 */
export const incrByFloat = (key: string, by: number): RedisCommand<number> =>
  make("INCRBYFLOAT", [key, by], Reply.float)

/**
 * `APPEND`: the length in bytes after it.
 *
 * @since 0.1.0
 * @category strings
 */
export const append = (key: string, value: RedisClient.RedisArgument): RedisCommand<number> =>
  make("APPEND", [key, value], Reply.integer)

/**
 * `STRLEN`: the length in bytes; 0 where there is none.
 *
 * @since 0.1.0
 * @category strings
 */
export const strLen = (key: string): RedisCommand<number> => make("STRLEN", [key], Reply.integer)

// ---- keys

/**
 * `DEL`: how many of the keys there were. On a Cluster they must share one slot.
 *
 * @since 0.1.0
 * @category keys
 */
export const del = (...keys: ReadonlyArray<string>): RedisCommand<number> => make("DEL", keys, Reply.integer)

/**
 * `UNLINK`: as `del`, with the memory freed beside the commands of others.
 *
 * @since 0.1.0
 * @category keys
 */
export const unlink = (...keys: ReadonlyArray<string>): RedisCommand<number> => make("UNLINK", keys, Reply.integer)

/**
 * `EXISTS`: how many of the keys there are.
 *
 * @since 0.1.0
 * @category keys
 */
export const exists = (...keys: ReadonlyArray<string>): RedisCommand<number> => make("EXISTS", keys, Reply.integer)

/**
 * `PEXPIRE`: whether the key is there and lives for `ttl` from now on.
 *
 * @since 0.1.0
 * @category keys
 */
export const expire = (key: string, ttl: Duration.DurationInput): RedisCommand<boolean> =>
  make("PEXPIRE", [key, millis(ttl)], Reply.boolean)

/**
 * `PERSIST`: whether the key is there and had a time to live, which is gone now.
 *
 * @since 0.1.0
 * @category keys
 */
export const persist = (key: string): RedisCommand<boolean> => make("PERSIST", [key], Reply.boolean)

/**
 * `PTTL`: how long the key lives yet: none where it is not there, `Duration.infinity` where it lives for ever.
 *
 * @since 0.1.0
 * @category keys
 */
export const ttl = (key: string): RedisCommand<Option.Option<Duration.Duration>> =>
  make("PTTL", [key], (reply) => {
    if (typeof reply !== "number") return unexpected
    return reply === -2 ? Option.none() : Option.some(reply === -1 ? Duration.infinity : Duration.millis(reply))
  })

/**
 * `TYPE`: what is at a key.
 *
 * @since 0.1.0
 * @category keys
 */
export const type = (key: string): RedisCommand<Option.Option<string>> =>
  make("TYPE", [key], (reply) =>
    typeof reply === "string" ? (reply === "none" ? Option.none() : Option.some(reply)) : unexpected
  )

/**
 * One piece of a scan: `cursor` is `0` when it is over.
 *
 * @since 0.1.0
 * @category models
 */
export interface Scanned<A> {
  readonly cursor: string
  readonly found: A
}

/**
 * What a scan looks at.
 *
 * @since 0.1.0
 * @category models
 */
export interface ScanOptions {
  readonly match?: string | undefined
  readonly count?: number | undefined
}

const scanned =
  <A>(of: Decode<A>): Decode<Scanned<A>> =>
  (reply) => {
    if (!Array.isArray(reply) || reply.length !== 2) return unexpected
    const [cursor, found] = reply as [RedisClient.Reply, RedisClient.Reply]
    const value = of(found)
    return typeof cursor === "string" && value !== unexpected ? { cursor, found: value } : unexpected
  }

const scanArguments = ({ count, match }: ScanOptions): ReadonlyArray<RedisClient.RedisArgument> => [
  ...(match === undefined ? [] : ["MATCH", match]),
  ...(count === undefined ? [] : ["COUNT", count])
]

/**
 * `SCAN`: some keys of one server. On a Cluster run it on each of `RedisClient.Service.nodes`.
 *
 * @since 0.1.0
 * @category keys
 */
export const scan = (
  cursor: string,
  options: ScanOptions & { readonly type?: string | undefined } = {}
): RedisCommand<Scanned<ReadonlyArray<string>>> =>
  make(
    "SCAN",
    [cursor, ...scanArguments(options), ...(options.type === undefined ? [] : ["TYPE", options.type])],
    scanned(Reply.list(Reply.text))
  )

// ---- hashes

/**
 * `HGET`: the text of a field.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hGet = (key: string, field: string): RedisCommand<Option.Option<string>> =>
  make("HGET", [key, field], Reply.optionalText)

/**
 * `HMGET`: the texts of several fields, in their order.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hMGet = (key: string, fields: ReadonlyArray<string>): RedisCommand<ReadonlyArray<Option.Option<string>>> =>
  make("HMGET", [key, ...fields], Reply.list(Reply.optionalText))

/**
 * `HGETALL`: all fields; none where there is no hash.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hGetAll = (key: string): RedisCommand<ReadonlyMap<string, string>> =>
  make("HGETALL", [key], Reply.map(Reply.text))

/**
 * `HSET`: how many of the fields are new.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hSet = (
  key: string,
  fields: Iterable<readonly [field: string, value: RedisClient.RedisArgument]>
): RedisCommand<number> => make("HSET", [key, ...[...fields].flat()], Reply.integer)

/**
 * `HSETNX`: whether the field was set; it is not where there is one.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hSetNx = (key: string, field: string, value: RedisClient.RedisArgument): RedisCommand<boolean> =>
  make("HSETNX", [key, field, value], Reply.boolean)

/**
 * `HDEL`: how many of the fields there were.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hDel = (key: string, ...fields: ReadonlyArray<string>): RedisCommand<number> =>
  make("HDEL", [key, ...fields], Reply.integer)

/**
 * `HEXISTS`: whether there is such a field.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hExists = (key: string, field: string): RedisCommand<boolean> =>
  make("HEXISTS", [key, field], Reply.boolean)

/**
 * `HINCRBY`: the number after it was changed.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hIncrBy = (key: string, field: string, by = 1): RedisCommand<number> =>
  make("HINCRBY", [key, field, by], Reply.integer)

/**
 * `HLEN`: how many fields there are.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hLen = (key: string): RedisCommand<number> => make("HLEN", [key], Reply.integer)

/**
 * `HKEYS`: the names of all fields.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hKeys = (key: string): RedisCommand<ReadonlyArray<string>> => make("HKEYS", [key], Reply.list(Reply.text))

/**
 * `HSCAN`: some fields of a hash.
 *
 * @since 0.1.0
 * @category hashes
 */
export const hScan = (
  key: string,
  cursor: string,
  options: ScanOptions = {}
): RedisCommand<Scanned<ReadonlyMap<string, string>>> =>
  make("HSCAN", [key, cursor, ...scanArguments(options)], scanned(Reply.map(Reply.text)))

// ---- lists

/**
 * `LPUSH`: the length of the list after it; the last of the values is the first of the list.
 *
 * @since 0.1.0
 * @category lists
 */
export const lPush = (key: string, ...values: ReadonlyArray<RedisClient.RedisArgument>): RedisCommand<number> =>
  make("LPUSH", [key, ...values], Reply.integer)

/**
 * `RPUSH`: the length of the list after it.
 *
 * @since 0.1.0
 * @category lists
 */
export const rPush = (key: string, ...values: ReadonlyArray<RedisClient.RedisArgument>): RedisCommand<number> =>
  make("RPUSH", [key, ...values], Reply.integer)

/**
 * `LPOP`: takes the first element.
 *
 * @since 0.1.0
 * @category lists
 */
export const lPop = (key: string): RedisCommand<Option.Option<string>> => make("LPOP", [key], Reply.optionalText)

/**
 * `RPOP`: takes the last element.
 *
 * @since 0.1.0
 * @category lists
 */
export const rPop = (key: string): RedisCommand<Option.Option<string>> => make("RPOP", [key], Reply.optionalText)

/**
 * `LMOVE`: takes an element from one end of a list and puts it to one of another. On a Cluster both must share a slot.
 *
 * @since 0.1.0
 * @category lists
 */
export const lMove = (
  from: string,
  to: string,
  ends: { readonly take: "left" | "right"; readonly put: "left" | "right" }
): RedisCommand<Option.Option<string>> =>
  make("LMOVE", [from, to, ends.take.toUpperCase(), ends.put.toUpperCase()], Reply.optionalText)

/**
 * `LRANGE`: the elements from `start` to `stop`, both counted from 0, or from the end where they are negative.
 *
 * @since 0.1.0
 * @category lists
 */
export const lRange = (key: string, start = 0, stop = -1): RedisCommand<ReadonlyArray<string>> =>
  make("LRANGE", [key, start, stop], Reply.list(Reply.text))

/**
 * `LLEN`: the length; 0 where there is none.
 *
 * @since 0.1.0
 * @category lists
 */
export const lLen = (key: string): RedisCommand<number> => make("LLEN", [key], Reply.integer)

/**
 * `LTRIM`: keeps the elements from `start` to `stop`.
 *
 * @since 0.1.0
 * @category lists
 */
export const lTrim = (key: string, start: number, stop: number): RedisCommand<void> =>
  make("LTRIM", [key, start, stop], Reply.ok)

/**
 * `LREM`: takes out `count` elements of this value (all: 0; from the end: negative); how many there were.
 *
 * @since 0.1.0
 * @category lists
 */
export const lRem = (key: string, count: number, value: RedisClient.RedisArgument): RedisCommand<number> =>
  make("LREM", [key, count, value], Reply.integer)

// ---- sets

/**
 * `SADD`: how many of the members are new.
 *
 * @since 0.1.0
 * @category sets
 */
export const sAdd = (key: string, ...members: ReadonlyArray<RedisClient.RedisArgument>): RedisCommand<number> =>
  make("SADD", [key, ...members], Reply.integer)

/**
 * `SREM`: how many of the members there were.
 *
 * @since 0.1.0
 * @category sets
 */
export const sRem = (key: string, ...members: ReadonlyArray<RedisClient.RedisArgument>): RedisCommand<number> =>
  make("SREM", [key, ...members], Reply.integer)

/**
 * `SMEMBERS`: all members.
 *
 * @since 0.1.0
 * @category sets
 */
export const sMembers = (key: string): RedisCommand<ReadonlySet<string>> =>
  map(make("SMEMBERS", [key], Reply.list(Reply.text)), (members) => new Set(members))

/**
 * `SISMEMBER`: whether it is a member.
 *
 * @since 0.1.0
 * @category sets
 */
export const sIsMember = (key: string, member: RedisClient.RedisArgument): RedisCommand<boolean> =>
  make("SISMEMBER", [key, member], Reply.boolean)

/**
 * `SCARD`: how many members there are.
 *
 * @since 0.1.0
 * @category sets
 */
export const sCard = (key: string): RedisCommand<number> => make("SCARD", [key], Reply.integer)

/**
 * `SPOP`: takes some member.
 *
 * @since 0.1.0
 * @category sets
 */
export const sPop = (key: string): RedisCommand<Option.Option<string>> => make("SPOP", [key], Reply.optionalText)

/**
 * `SSCAN`: some members of a set.
 *
 * @since 0.1.0
 * @category sets
 */
export const sScan = (
  key: string,
  cursor: string,
  options: ScanOptions = {}
): RedisCommand<Scanned<ReadonlyArray<string>>> =>
  make("SSCAN", [key, cursor, ...scanArguments(options)], scanned(Reply.list(Reply.text)))

// ---- sorted sets

/**
 * A member of a sorted set.
 *
 * @since 0.1.0
 * @category models
 */
export interface Scored {
  readonly member: string
  readonly score: number
}

const scored: Decode<ReadonlyArray<Scored>> = (reply) => {
  if (!Array.isArray(reply) || reply.length % 2 !== 0) return unexpected
  const all: Array<Scored> = []
  for (let index = 0; index < reply.length; index += 2) {
    const member: RedisClient.Reply = reply[index]
    const score = number(reply[index + 1])
    if (typeof member !== "string" || score === unexpected) return unexpected
    all.push({ member, score })
  }
  return all
}

/**
 * `ZADD`: how many of the members are new; with `changed`, how many are new or have another score.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zAdd = (
  key: string,
  members: Iterable<Scored>,
  options: {
    readonly onlyIf?: "absent" | "present" | "greater" | "less" | undefined
    readonly changed?: boolean | undefined
  } = {}
): RedisCommand<number> =>
  make(
    "ZADD",
    [
      key,
      ...(options.onlyIf === undefined ? [] : [conditions[options.onlyIf]]),
      ...(options.changed === true ? ["CH"] : []),
      ...[...members].flatMap(({ member, score }) => [float(score), member])
    ],
    Reply.integer
  )

const conditions = { absent: "NX", present: "XX", greater: "GT", less: "LT" } as const

/**
 * `ZREM`: how many of the members there were.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zRem = (key: string, ...members: ReadonlyArray<string>): RedisCommand<number> =>
  make("ZREM", [key, ...members], Reply.integer)

/**
 * `ZSCORE`: the score of a member.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zScore = (key: string, member: string): RedisCommand<Option.Option<number>> =>
  make("ZSCORE", [key, member], Reply.optionalFloat)

/**
 * `ZINCRBY`: the score of a member after it was changed.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zIncrBy = (key: string, by: number, member: string): RedisCommand<number> =>
  make("ZINCRBY", [key, float(by), member], Reply.float)

/**
 * `ZRANK`: the place of a member, from 0.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zRank = (key: string, member: string): RedisCommand<Option.Option<number>> =>
  make("ZRANK", [key, member], Reply.optionalInteger)

/**
 * `ZCARD`: how many members there are.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zCard = (key: string): RedisCommand<number> => make("ZCARD", [key], Reply.integer)

/**
 * `ZCOUNT`: how many members have a score from `min` to `max`.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zCount = (key: string, min: number, max: number): RedisCommand<number> =>
  make("ZCOUNT", [key, float(min), float(max)], Reply.integer)

/**
 * Which part of a sorted set: by place, or by score. Both ends are part of it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ZRange {
  readonly by?: "place" | "score" | undefined
  readonly start: number
  readonly stop: number
  /** From the highest down; `start` is then the higher end of scores. */
  readonly reverse?: boolean | undefined
  /** By score only. */
  readonly limit?: { readonly offset: number; readonly count: number } | undefined
}

const rangeArguments = (key: string, range: ZRange): ReadonlyArray<RedisClient.RedisArgument> => [
  key,
  float(range.start),
  float(range.stop),
  ...(range.by === "score" ? ["BYSCORE"] : []),
  ...(range.reverse === true ? ["REV"] : []),
  ...(range.limit === undefined ? [] : ["LIMIT", range.limit.offset, range.limit.count])
]

/**
 * `ZRANGE`: the members of a part, in the order of their scores.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zRange = (key: string, range: ZRange = { start: 0, stop: -1 }): RedisCommand<ReadonlyArray<string>> =>
  make("ZRANGE", rangeArguments(key, range), Reply.list(Reply.text))

/**
 * `ZRANGE … WITHSCORES`: the members of a part with their scores.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zRangeWithScores = (
  key: string,
  range: ZRange = { start: 0, stop: -1 }
): RedisCommand<ReadonlyArray<Scored>> => make("ZRANGE", [...rangeArguments(key, range), "WITHSCORES"], scored)

/**
 * `ZREMRANGEBYSCORE`: how many members had a score from `min` to `max`.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zRemRangeByScore = (key: string, min: number, max: number): RedisCommand<number> =>
  make("ZREMRANGEBYSCORE", [key, float(min), float(max)], Reply.integer)

/**
 * `ZPOPMIN`: takes the members with the lowest scores.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zPopMin = (key: string, count = 1): RedisCommand<ReadonlyArray<Scored>> =>
  make("ZPOPMIN", [key, count], scored)

/**
 * `ZPOPMAX`: takes the members with the highest scores.
 *
 * @since 0.1.0
 * @category sorted sets
 */
export const zPopMax = (key: string, count = 1): RedisCommand<ReadonlyArray<Scored>> =>
  make("ZPOPMAX", [key, count], scored)

// ---- streams

/**
 * An entry of a stream. It has no fields where it was claimed and is deleted already.
 *
 * @since 0.1.0
 * @category models
 */
export interface StreamEntry {
  readonly id: string
  readonly fields: ReadonlyMap<string, string>
}

const noFields: ReadonlyMap<string, string> = new Map()

const entry: Decode<StreamEntry> = (reply) => {
  if (!Array.isArray(reply)) return unexpected
  const [id, fields] = reply as ReadonlyArray<RedisClient.Reply>
  const read = fields === null || fields === undefined ? noFields : Reply.map(Reply.text)(fields)
  return typeof id === "string" && read !== unexpected ? { id, fields: read } : unexpected
}

const entries = Reply.list(entry)

/** The entries by stream; null where there are none. */
const streams: Decode<ReadonlyMap<string, ReadonlyArray<StreamEntry>>> = (reply) => {
  if (reply === null) return new Map()
  if (!Array.isArray(reply)) return unexpected
  const map = new Map<string, ReadonlyArray<StreamEntry>>()
  for (const one of reply as ReadonlyArray<RedisClient.Reply>) {
    if (!Array.isArray(one)) return unexpected
    const [key, those] = one as ReadonlyArray<RedisClient.Reply>
    const read = those === undefined ? unexpected : entries(those)
    if (typeof key !== "string" || read === unexpected) return unexpected
    map.set(key, read)
  }
  return map
}

/**
 * How a stream is kept short.
 *
 * @since 0.1.0
 * @category models
 */
export interface Trim {
  /** At most so many entries, or none older than this id. */
  readonly keep: { readonly maxLength: number } | { readonly minId: string }
  /** Exactly, or (default) where it costs little. */
  readonly exact?: boolean | undefined
}

const trimArguments = ({ exact, keep }: Trim): ReadonlyArray<RedisClient.RedisArgument> => [
  ...("maxLength" in keep
    ? ["MAXLEN", exact === true ? "=" : "~", keep.maxLength]
    : ["MINID", exact === true ? "=" : "~", keep.minId])
]

/**
 * `XADD`: the id of the new entry.
 *
 * @since 0.1.0
 * @category streams
 */
export const xAdd = (
  key: string,
  fields: Iterable<readonly [field: string, value: RedisClient.RedisArgument]>,
  options: { readonly id?: string | undefined; readonly trim?: Trim | undefined } = {}
): RedisCommand<string> =>
  make(
    "XADD",
    [key, ...(options.trim === undefined ? [] : trimArguments(options.trim)), options.id ?? "*", ...[...fields].flat()],
    Reply.text
  )

/**
 * `XLEN`: how many entries there are.
 *
 * @since 0.1.0
 * @category streams
 */
export const xLen = (key: string): RedisCommand<number> => make("XLEN", [key], Reply.integer)

/**
 * `XRANGE`: the entries from one id to another, both part of it: `-` is the first, `+` the last.
 *
 * @since 0.1.0
 * @category streams
 */
export const xRange = (
  key: string,
  options: {
    readonly start?: string | undefined
    readonly end?: string | undefined
    readonly count?: number | undefined
  } = {}
): RedisCommand<ReadonlyArray<StreamEntry>> =>
  make(
    "XRANGE",
    [key, options.start ?? "-", options.end ?? "+", ...(options.count === undefined ? [] : ["COUNT", options.count])],
    entries
  )

/**
 * `XREVRANGE`: as `xRange`, the latest first.
 *
 * @since 0.1.0
 * @category streams
 */
export const xRevRange = (
  key: string,
  options: {
    readonly start?: string | undefined
    readonly end?: string | undefined
    readonly count?: number | undefined
  } = {}
): RedisCommand<ReadonlyArray<StreamEntry>> =>
  make(
    "XREVRANGE",
    [key, options.end ?? "+", options.start ?? "-", ...(options.count === undefined ? [] : ["COUNT", options.count])],
    entries
  )

/**
 * `XDEL`: how many of the entries there were.
 *
 * @since 0.1.0
 * @category streams
 */
export const xDel = (key: string, ...ids: ReadonlyArray<string>): RedisCommand<number> =>
  make("XDEL", [key, ...ids], Reply.integer)

/**
 * `XTRIM`: how many entries were taken out.
 *
 * @since 0.1.0
 * @category streams
 */
export const xTrim = (key: string, trim: Trim): RedisCommand<number> =>
  make("XTRIM", [key, ...trimArguments(trim)], Reply.integer)

/**
 * `XREAD`: the entries behind an id, by stream. It does not wait: waiting is for an isolated connection.
 *
 * @since 0.1.0
 * @category streams
 */
export const xRead = (
  after: Iterable<readonly [key: string, id: string]>,
  options: { readonly count?: number | undefined } = {}
): RedisCommand<ReadonlyMap<string, ReadonlyArray<StreamEntry>>> => {
  const all = [...after]
  return make(
    "XREAD",
    [
      ...(options.count === undefined ? [] : ["COUNT", options.count]),
      "STREAMS",
      ...all.map(([key]) => key),
      ...all.map(([, id]) => id)
    ],
    streams
  )
}

/**
 * `XGROUP CREATE`: makes a consumer group that begins behind `after` (`$`: the last entry), and the stream where there is
 * none. Where there is the group already it is refused with the code `BUSYGROUP`.
 *
 * @since 0.1.0
 * @category streams
 */
export const xGroupCreate = (key: string, group: string, after = "$"): RedisCommand<void> =>
  make("XGROUP", ["CREATE", key, group, after, "MKSTREAM"], Reply.ok)

/**
 * `XREADGROUP`: new entries for a consumer of a group (`>`), or those that it had and did not acknowledge, behind an id.
 *
 * @since 0.1.0
 * @category streams
 */
export const xReadGroup = (
  group: string,
  consumer: string,
  after: Iterable<readonly [key: string, id: string]>,
  options: { readonly count?: number | undefined } = {}
): RedisCommand<ReadonlyMap<string, ReadonlyArray<StreamEntry>>> => {
  const all = [...after]
  return make(
    "XREADGROUP",
    [
      "GROUP",
      group,
      consumer,
      ...(options.count === undefined ? [] : ["COUNT", options.count]),
      "STREAMS",
      ...all.map(([key]) => key),
      ...all.map(([, id]) => id)
    ],
    streams
  )
}

/**
 * `XACK`: how many of the entries waited for it.
 *
 * @since 0.1.0
 * @category streams
 */
export const xAck = (key: string, group: string, ...ids: ReadonlyArray<string>): RedisCommand<number> =>
  make("XACK", [key, group, ...ids], Reply.integer)

/**
 * Entries that were claimed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Claimed {
  /** Where to go on; `0-0` when all were looked at. */
  readonly next: string
  readonly entries: ReadonlyArray<StreamEntry>
}

/**
 * `XAUTOCLAIM`: takes over entries that another consumer has had for `idle` and did not acknowledge.
 *
 * @since 0.1.0
 * @category streams
 */
export const xAutoClaim = (
  key: string,
  group: string,
  consumer: string,
  idle: Duration.DurationInput,
  options: { readonly start?: string | undefined; readonly count?: number | undefined } = {}
): RedisCommand<Claimed> =>
  make(
    "XAUTOCLAIM",
    [
      key,
      group,
      consumer,
      Math.max(0, Math.ceil(Duration.toMillis(idle))),
      options.start ?? "0-0",
      ...(options.count === undefined ? [] : ["COUNT", options.count])
    ],
    (reply) => {
      if (!Array.isArray(reply)) return unexpected
      const [next, those] = reply as ReadonlyArray<RedisClient.Reply>
      const read = those === undefined ? unexpected : entries(those)
      return typeof next === "string" && read !== unexpected ? { next, entries: read } : unexpected
    }
  )

// ---- others

/**
 * `PUBLISH`: how many heard it on the node that it was said to.
 *
 * @since 0.1.0
 * @category others
 */
export const publish = (channel: string, payload: RedisClient.RedisArgument): RedisCommand<number> =>
  make("PUBLISH", [channel, payload], Reply.integer)

/**
 * `PING`.
 *
 * @since 0.1.0
 * @category others
 */
export const ping: RedisCommand<void> = make("PING", [], (reply) => (reply === "PONG" ? undefined : unexpected))

/**
 * `TIME`: the clock of the server, in milliseconds since 1970, with microseconds as fraction.
 *
 * @since 0.1.0
 * @category others
 */
export const time: RedisCommand<number> = make("TIME", [], (reply) => {
  const parts = Reply.list(Reply.float)(reply)
  if (parts === unexpected) return unexpected
  const [seconds, micros] = parts
  return seconds === undefined || micros === undefined ? unexpected : seconds * 1_000 + micros / 1_000
})

/**
 * `DBSIZE`: how many keys one server has. On a Cluster run it on each of `RedisClient.Service.nodes`.
 *
 * @since 0.1.0
 * @category others
 */
export const dbSize: RedisCommand<number> = make("DBSIZE", [], Reply.integer)
