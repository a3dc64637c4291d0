/**
 * Errors of the Redis client as the errors of core's state ports.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type { RedisError } from "../RedisError.ts"
import type { Reply } from "./model.ts"

/** The reasons that all state ports share. */
export const reasonOf = (error: RedisError): "Unavailable" | "Timeout" | "Rejected" => {
  switch (error.reason) {
    case "Timeout":
      return "Timeout"
    case "Unavailable":
    case "Overloaded":
    case "Closed":
    case "NotReady":
      return "Unavailable"
    default:
      return "Rejected"
  }
}

/** Whether the operation can have taken effect. */
export const outcomeOf = (error: RedisError): "not-done" | "unknown" =>
  error.outcome === "unknown" ? "unknown" : "not-done"

/** What went wrong, without keys and values. */
export const descriptionOf = (error: RedisError): string =>
  error.code === undefined ? error.description : `${error.description} [${error.code}]`

/** The replies of several commands, or the first failure among them. */
export const allReplies = (
  results: ReadonlyArray<Either.Either<Reply, RedisError>>
): Effect.Effect<ReadonlyArray<Reply>, RedisError> => {
  const replies: Array<Reply> = []
  for (const result of results) {
    if (Either.isLeft(result)) return Effect.fail(result.left)
    replies.push(result.right)
  }
  return Effect.succeed(replies)
}

/** Cuts a list into pieces, so that no burst of commands is larger than one piece. */
export const pieces = <A>(all: ReadonlyArray<A>, size: number): ReadonlyArray<ReadonlyArray<A>> => {
  const cut: Array<ReadonlyArray<A>> = []
  for (let start = 0; start < all.length; start += size) cut.push(all.slice(start, start + size))
  return cut
}
