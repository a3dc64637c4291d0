/** Statements of PartiQL, page by page. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Attribute from "./attribute.ts"
import { listOf, type Output } from "./client.ts"
import type { Faults } from "./faults.ts"
import type { Call } from "./tableModel.ts"

export const make =
  ({ circles, right }: Faults, call: Call) =>
  (
    statement: string,
    parameters: ReadonlyArray<unknown> = [],
    options?: { readonly consistent?: boolean | undefined }
  ): Stream.Stream<Readonly<Record<string, unknown>>, ConnectionError> =>
    Stream.unwrap(
      Effect.map(
        Effect.forEach(parameters, (value) => right("ExecuteStatement", Attribute.marshal(value))),
        (wire) => {
          const input: Output = {
            Statement: statement,
            ...(wire.length === 0 ? {} : { Parameters: wire }),
            ...(options?.consistent === true ? { ConsistentRead: true } : {})
          }
          const begin: string | undefined = undefined
          const circle = circles("ExecuteStatement")
          return Stream.paginateChunkEffect<
            string | undefined,
            Readonly<Record<string, unknown>>,
            ConnectionError,
            never
          >(begin, (token) =>
            Effect.gen(function* () {
              const output = yield* call(
                "ExecuteStatement",
                token === undefined ? input : { ...input, NextToken: token },
                /^\s*select\b/i.test(statement)
              )
              const rows: Array<Readonly<Record<string, unknown>>> = []
              for (const item of listOf(output["Items"]))
                rows.push(yield* right("ExecuteStatement", Attribute.unmarshalMap(item)))
              const next = output["NextToken"]
              if (typeof next === "string") yield* circle(next)
              const following: Option.Option<string | undefined> =
                typeof next === "string" ? Option.some(next) : Option.none()
              return [Chunk.unsafeFromArray(rows), following] as const
            })
          )
        }
      )
    )
