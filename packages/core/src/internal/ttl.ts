/**
 * Times to live: decoded and checked once for every store.
 */
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"

/** Nothing is kept longer than a hundred years: a longer time is an infinite one in disguise. */
const longest = 100 * 366 * 24 * 60 * 60 * 1000

/** A time to live in whole milliseconds, or why it cannot be one. Parts of a millisecond are rounded up. */
export const millis = (ttl: Duration.DurationInput): Either.Either<number, string> => {
  const decoded = Duration.decodeUnknown(ttl)
  if (Option.isNone(decoded)) return Either.left("a time to live must be a duration")
  const value = Duration.toMillis(decoded.value)
  if (!Number.isFinite(value)) return Either.left("a time to live cannot be infinite")
  if (!(value > 0)) return Either.left("a time to live must be longer than zero")
  if (value > longest) return Either.left("a time to live cannot be longer than a hundred years")
  return Either.right(Math.ceil(value))
}
