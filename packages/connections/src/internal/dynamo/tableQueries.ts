/** Queries and scans of one table, page by page. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { asRecord, listOf, numberOf, type Output } from "./client.ts"
import * as Expression from "./expression.ts"
import type { Faults } from "./faults.ts"
import { on, onKey } from "./operators.ts"
import type { Definition, Items } from "./tableItems.ts"
import type { Call, Index, KeyCondition, ListOptions, OnKey, Page } from "./tableModel.ts"

/** What a query can say, whatever the types of the keys. */
export interface AnyQuery<I> extends ListOptions<I> {
  readonly index?: string | undefined
  readonly partition: unknown
  readonly sort?: ((on: OnKey<unknown>) => KeyCondition) | undefined
  readonly order?: "ascending" | "descending" | undefined
}

export interface AnyScan<I> extends ListOptions<I> {
  readonly index?: string | undefined
  readonly segments?: number | undefined
}

export const make = <A extends object, I extends object>(
  definition: Definition<A, I>,
  items: Items<A, I>,
  faults: Faults,
  call: Call
) => {
  const { name, partitionKey, sortKey } = definition
  const { encodeOne, readAll } = items
  const { building, circles, failure, notStorable } = faults

  /** Pages of a query or a scan, until the service says that there are no more. */
  const paged = (method: string, input: Output, after: string | undefined): Stream.Stream<Page<A>, ConnectionError> =>
    Stream.suspend(() => {
      const circle = circles(method)
      const begin = after === undefined ? Effect.succeed(undefined) : cursorKey(method, after)
      return Stream.unwrap(
        Effect.map(begin, (first) =>
          Stream.paginateEffect(first, (start) =>
            Effect.gen(function* () {
              const output = yield* call(
                method,
                start === undefined ? input : { ...input, ExclusiveStartKey: start },
                true
              )
              const items = yield* readAll(method, listOf(output["Items"]))
              const next = asRecord(output["LastEvaluatedKey"])
              if (next !== undefined) yield* circle(JSON.stringify(next))
              const page: Page<A> = {
                items,
                scanned: numberOf(output["ScannedCount"]),
                cursor: Option.map(Option.fromNullable(next), toCursor)
              }
              const turn: readonly [Page<A>, Option.Option<Output | undefined>] = [page, Option.fromNullable(next)]
              return [turn[0], turn[1]]
            })
          )
        )
      )
    })

  const cursorKey = (method: string, cursor: string): Effect.Effect<Output, ConnectionError> => {
    const invalid = failure("InvalidRequest", method, "the cursor is none that a page had", false)
    return Effect.suspend(() => {
      try {
        const parsed: unknown = JSON.parse(Buffer.from(cursor, "base64url").toString("utf8"))
        return asRecord(parsed) === undefined ? invalid : Effect.succeed(asRecord(parsed) ?? {})
      } catch {
        return invalid
      }
    })
  }

  const itemsOf = (pages: Stream.Stream<Page<A>, ConnectionError>, limit: number | undefined) => {
    const items = Stream.mapConcatChunk(pages, (page) => Chunk.unsafeFromArray(page.items))
    // a limit that cannot be is refused with the pages
    return limit === undefined || !(limit > 0) ? items : Stream.take(items, limit)
  }

  const listFields = (options: ListOptions<I>, at: Expression.Placeholders): Output => {
    const size =
      options.filter === undefined && options.limit !== undefined
        ? Math.min(options.limit, options.pageSize ?? options.limit)
        : options.pageSize
    return {
      TableName: name,
      ...(options.filter === undefined ? {} : { FilterExpression: Expression.condition(options.filter(on), at) }),
      ...(options.consistent === true ? { ConsistentRead: true } : {}),
      ...(size === undefined ? {} : { Limit: size })
    }
  }

  const checkedList = (method: string, options: ListOptions<I>): Effect.Effect<void, ConnectionError> =>
    [options.limit, options.pageSize].some((one) => one !== undefined && !(Number.isInteger(one) && one > 0))
      ? failure("InvalidRequest", method, "limit and pageSize are whole numbers above 0", false)
      : Effect.void

  const queryPages = (options: AnyQuery<I>): Stream.Stream<Page<A>, ConnectionError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        yield* checkedList("Query", options)
        const index: Index | undefined = options.index === undefined ? undefined : definition.indexes?.[options.index]
        if (options.index !== undefined && index === undefined) {
          return yield* failure("InvalidRequest", "Query", "the table has no index of this name", false)
        }
        const [partition, sort] = index === undefined ? [partitionKey, sortKey] : [index.partitionKey, index.sortKey]
        if (options.sort !== undefined && sort === undefined) {
          return yield* failure("InvalidRequest", "Query", "there is no sort key that a condition could be on", false)
        }
        const of = yield* Effect.mapError(encodeOne(partition, options.partition), notStorable("Query"))
        const wanted: Array<unknown> = []
        let made: KeyCondition | undefined
        const encoded = new Map<unknown, unknown>()
        if (options.sort !== undefined && sort !== undefined) {
          // once to learn of the values, once with what is stored of them
          made = options.sort(onKey)
          made([sort], (value) => wanted.push(value))
          for (const value of wanted) {
            encoded.set(value, yield* Effect.mapError(encodeOne(sort, value), notStorable("Query")))
          }
        }
        const input = yield* building("Query", () => {
          const at = new Expression.Placeholders()
          const keys = [
            Expression.condition(
              { _tag: "Compare", left: { path: [partition], size: false }, operator: "=", value: of },
              at
            )
          ]
          if (made !== undefined && sort !== undefined) {
            keys.push(
              Expression.condition(
                made([sort], (value) => encoded.get(value)),
                at
              )
            )
          }
          return {
            ...listFields(options, at),
            KeyConditionExpression: keys.join(" AND "),
            ...(options.index === undefined ? {} : { IndexName: options.index }),
            ...(options.order === "descending" ? { ScanIndexForward: false } : {}),
            ...at.fields
          }
        })
        return paged("Query", input, options.after)
      })
    )

  const scanPages = (options: AnyScan<I> = {}): Stream.Stream<Page<A>, ConnectionError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        yield* checkedList("Scan", options)
        const { segments = 1 } = options
        if (!(Number.isInteger(segments) && segments >= 1 && segments <= 1_000_000)) {
          return yield* failure("InvalidRequest", "Scan", "segments is a whole number from 1 to 1,000,000", false)
        }
        if (segments > 1 && options.after !== undefined) {
          return yield* failure("InvalidRequest", "Scan", "a cursor is of one segment: leave segments out", false)
        }
        const input = yield* building("Scan", () => {
          const at = new Expression.Placeholders()
          return {
            ...listFields(options, at),
            ...(options.index === undefined ? {} : { IndexName: options.index }),
            ...at.fields
          }
        })
        if (segments === 1) return paged("Scan", input, options.after)
        return Stream.flatMap(
          Stream.range(0, segments - 1),
          (segment) => paged("Scan", { ...input, Segment: segment, TotalSegments: segments }, undefined),
          { concurrency: Math.min(segments, 32) }
        )
      })
    )

  return {
    query: (options: AnyQuery<I>) => itemsOf(queryPages(options), options.limit),
    queryPages,
    scan: (options?: AnyScan<I>) => itemsOf(scanPages(options), options?.limit),
    scanPages
  }
}

const toCursor = (key: Output): string => Buffer.from(JSON.stringify(key)).toString("base64url")
