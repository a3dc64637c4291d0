/**
 * Topics: their settings checked and decoded, the partition of a key, and positions.
 */
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Ttl from "../ttl.ts"
import type { From, Retention, RetentionSettings, Topic, TopicOptions } from "./model.ts"

export const make = <A, I>(options: TopicOptions<A, I>): Topic<A, I> => {
  const problems: Array<string> = []
  const check = <B>(what: string, result: Either.Either<B, string>, otherwise: B): B => {
    if (Either.isRight(result)) return result.right
    problems.push(`${what}: ${result.left}`)
    return otherwise
  }
  const nameWrong = nameProblem(options.name, 200)
  if (nameWrong !== undefined) problems.push(`the name ${nameWrong}`)
  const partitions = options.partitions ?? 8
  if (!(Number.isInteger(partitions) && partitions >= 1 && partitions <= 256)) {
    problems.push("the number of partitions must be a whole number from 1 to 256")
  }
  const maxDeadLetters = options.maxDeadLetters ?? 10_000
  if (!isCount(maxDeadLetters)) problems.push("the number of dead letters must be a positive whole number")
  const settings = {
    name: options.name,
    partitions,
    retention: check("retention", retention(options.retention), defaultRetention),
    deduplicateFor: check("deduplicateFor", Ttl.millis(options.deduplicateFor ?? "10 minutes"), 1),
    maxDeadLetters,
    forgetAfter: check("forgetAfter", Ttl.millis(options.forgetAfter ?? "90 days"), 1)
  }
  return {
    name: options.name,
    schema: options.schema,
    settings,
    problem: problems.length === 0 ? undefined : problems.join("; ")
  }
}

const defaultRetention: RetentionSettings = { maxLength: 10_000, maxAge: undefined, unacknowledged: "keep" }

export const retention = (
  options: Retention | undefined,
  otherwise: RetentionSettings = defaultRetention
): Either.Either<RetentionSettings, string> => {
  if (options === undefined) return Either.right(otherwise)
  const maxLength = options.maxLength ?? otherwise.maxLength
  if (!(Number.isInteger(maxLength) && maxLength >= 0)) {
    return Either.left("the length must be a whole number")
  }
  const unacknowledged = options.unacknowledged ?? otherwise.unacknowledged
  if (unacknowledged !== "keep" && unacknowledged !== "drop") {
    return Either.left("what is not acknowledged is kept or dropped")
  }
  if (options.maxAge === undefined) return Either.right({ maxLength, maxAge: otherwise.maxAge, unacknowledged })
  return Either.map(Ttl.millis(options.maxAge), (maxAge) => ({ maxLength, maxAge, unacknowledged }))
}

export const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 1

/** A positive duration in whole milliseconds. */
export const millis = (duration: Duration.DurationInput): number | undefined => {
  const decoded = Duration.decodeUnknown(duration)
  if (Option.isNone(decoded)) return undefined
  const value = Duration.toMillis(decoded.value)
  return value > 0 && value <= 2_147_483_647 ? Math.ceil(value) : undefined
}

/** Why a text cannot name a topic, a group, a consumer or an event; undefined when it can. */
export const nameProblem = (name: string, longest: number): string | undefined => {
  if (typeof name !== "string" || name.length === 0) return "cannot be empty"
  if (name.length > longest) return `cannot be longer than ${longest} characters`
  if (loneSurrogate.test(name)) return "must be well-formed Unicode"
  // braces would move what belongs together to different slots of a cluster
  return forbidden.test(name) ? "cannot hold control characters, { or }" : undefined
}

/** Why a text cannot be an ordering key. */
export const keyProblem = (key: string): string | undefined => {
  if (key.length > 1_024) return "cannot be longer than 1024 characters"
  return loneSurrogate.test(key) ? "must be well-formed Unicode" : undefined
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const forbidden = /[\u0000-\u001f\u007f{}]/

const loneSurrogate = /\p{Surrogate}/u

const utf8 = new TextEncoder()

export const partitionOf = (key: string, partitions: number): number => {
  let hash = 0x811c9dc5
  for (const byte of utf8.encode(key)) hash = Math.imul(hash ^ byte, 0x01000193)
  return (hash >>> 0) % partitions
}

const largest = 18_446_744_073_709_551_615n

/** The two numbers of a position. */
const parts = (position: string): readonly [bigint, bigint] => {
  const dash = position.indexOf("-")
  return [BigInt(position.slice(0, dash)), BigInt(position.slice(dash + 1))]
}

/** Both numbers have 64 bits. */
const isPosition = (text: string): boolean => /^\d{1,19}-\d{1,20}$/.test(text) && parts(text)[1] <= largest

export const compare = (one: string, other: string): number => {
  const [oneTime, oneNumber] = parts(one)
  const [otherTime, otherNumber] = parts(other)
  if (oneTime !== otherTime) return oneTime < otherTime ? -1 : 1
  return oneNumber === otherNumber ? 0 : oneNumber < otherNumber ? -1 : 1
}

export const timeOf = (position: string): number => Number(parts(position)[0])

/** The position before which nothing else fits in. */
export const successor = (position: string): string => {
  const [time, number] = parts(position)
  return number === largest ? `${time + 1n}-0` : `${time}-${number + 1n}`
}

const predecessor = (position: string): string => {
  const [time, number] = parts(position)
  if (number > 0n) return `${time}-${number - 1n}`
  return time > 0n ? `${time - 1n}-${largest}` : "0-0"
}

/** A position in the topic, of one in a partition. */
export const inTopic = (position: string, partition: number): string => `${position}@${partition}`

/** A position in the topic taken apart; undefined when it is none. */
export const taken = (
  text: string,
  partitions: number
): { readonly position: string; readonly partition: number } | undefined => {
  const [position = "", of = "", ...more] = typeof text === "string" ? text.split("@") : []
  const partition = Number(of)
  if (more.length > 0 || !isPosition(position) || !/^\d+$/.test(of) || partition >= partitions) return undefined
  return { position, partition }
}

/** Where each partition begins, exclusive; or why it cannot be. */
export const starts = (from: From, partitions: number): Either.Either<ReadonlyArray<string>, string> => {
  const everywhere = (start: string): ReadonlyArray<string> => Array.from({ length: partitions }, () => start)
  if (from === "beginning") return Either.right(everywhere("0-0"))
  if (from === "end") return Either.right(everywhere("$"))
  if (typeof from === "object" && from !== null && "at" in from) {
    const time = Math.ceil(Number(from.at))
    if (!(time >= 0 && time <= Number.MAX_SAFE_INTEGER)) return Either.left("the time must be a date since 1970")
    return Either.right(everywhere(predecessor(`${time}-0`)))
  }
  const position = taken(from.position, partitions)
  if (position === undefined) return Either.left("the position is none of this topic")
  const before = everywhere(predecessor(`${timeOf(position.position)}-0`))
  return Either.right(
    before.map((start, partition) => (partition === position.partition ? predecessor(position.position) : start))
  )
}
