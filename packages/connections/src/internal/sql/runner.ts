/** How statements and streams of rows are shown: not at all, or as calls of an outside service. */
import type { SqlError } from "@effect/sql/SqlError"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { DatabaseError } from "../../database/DatabaseError.ts"
import { operationOf, queryText } from "./queryText.ts"

export interface Runner {
  readonly effect: <A, R>(sql: string, effect: Effect.Effect<A, SqlError, R>) => Effect.Effect<A, SqlError, R>
  readonly stream: <A>(sql: string, stream: Stream.Stream<A, SqlError>) => Stream.Stream<A, SqlError>
}

/** Nothing is shown. */
export const quiet: Runner = { effect: (_, effect) => effect, stream: (_, stream) => stream }

/** One client span a statement, one log line, metrics. */
export const watching = (
  client: ExternalClient.ExternalClient,
  attributes: Readonly<Record<string, unknown>>,
  outside: (operation: string, error: ExternalClient.ExternalError) => SqlError
): Runner => {
  const namespace = attributes["db.namespace"]
  const about = (sql: string) => {
    const text = queryText(sql)
    const operation = operationOf(text)
    return {
      operation,
      options: {
        spanName: typeof namespace === "string" ? `${operation} ${namespace}` : operation,
        attributes: { ...attributes, "db.operation.name": operation, "db.query.text": text }
      }
    }
  }
  const withCode = (error: SqlError) =>
    error instanceof DatabaseError && error.code !== undefined
      ? Effect.annotateCurrentSpan("db.response.status_code", error.code)
      : Effect.void
  return {
    effect: (sql, effect) =>
      Effect.suspend(() => {
        const { operation, options } = about(sql)
        return Effect.mapError(client.call(operation, Effect.tapError(effect, withCode), options), (error) =>
          error._tag === "SqlError" ? error : outside(operation, error)
        )
      }),
    stream: (sql, stream) =>
      Stream.suspend(() => {
        const { operation, options } = about(sql)
        return Stream.mapError(client.stream(operation, Stream.tapError(stream, withCode), options), (error) =>
          error._tag === "SqlError" ? error : outside(operation, error)
        )
      })
  }
}
