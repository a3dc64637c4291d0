/** What goes wrong with tables, as errors of their connection. They never hold what stood in an item. */
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import * as Attribute from "./attribute.ts"

export type Faults = ReturnType<typeof make>

export const make = (connection: string) => {
  const failure = (
    reason: ConnectionErrorReason,
    method: string,
    description: string,
    sent?: boolean
  ): ConnectionError =>
    new ConnectionError({
      reason,
      kind: "dynamodb",
      connection,
      method,
      description,
      ...(sent === undefined ? {} : { sent })
    })

  /** Takes the places behind the pages, one after the other, and fails when one comes again. */
  const circles = (method: string): ((place: string) => Effect.Effect<void, ConnectionError>) => {
    const seen = new Set<string>()
    return (place) =>
      Effect.suspend(() => {
        if (seen.has(place)) return failure("Unknown", method, "the service gives the same pages again and again")
        // enough to see a circle, and no more than that of a table of any size
        if (seen.size >= 10_000) seen.clear()
        seen.add(place)
        return Effect.void
      })
  }

  const refused = (method: string, { path, why }: Attribute.Refused): ConnectionError =>
    failure("InvalidRequest", method, path === "" ? why : `${path}: ${why}`, false)

  /** Runs what may throw `Refused`. */
  const building = <A>(method: string, f: () => A): Effect.Effect<A, ConnectionError> =>
    Effect.suspend(() => {
      try {
        return Effect.succeed(f())
      } catch (cause) {
        return cause instanceof Attribute.Refused ? Effect.fail(refused(method, cause)) : Effect.die(cause)
      }
    })

  /** Where it does not fit, and never what stood there. */
  const places = (issue: ParseResult.ParseIssue): string => {
    const all = new Set(
      ParseResult.ArrayFormatter.formatIssueSync(issue).map(({ path }) =>
        path.length === 0 ? "the item" : path.join(".")
      )
    )
    return [...all].slice(0, 10).join(", ")
  }

  const notStorable = (method: string) => (error: ParseResult.ParseError) =>
    failure("InvalidRequest", method, `it does not encode by the table's schema at: ${places(error.issue)}`, false)

  const notReadable = (method: string) => (issue: ParseResult.ParseIssue) =>
    failure("Unknown", method, `what is stored does not fit the table's schema at: ${places(issue)}`)

  const right = <A>(method: string, either: Either.Either<A, Attribute.Refused>): Effect.Effect<A, ConnectionError> =>
    Either.isRight(either) ? Effect.succeed(either.right) : Effect.fail(refused(method, either.left))

  return { failure, circles, building, right, notStorable, notReadable }
}
