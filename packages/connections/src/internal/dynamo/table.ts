/** Typed tables over the wire: see `DynamoDb`. */
import * as Crypto from "node:crypto"
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import * as Stream from "effect/Stream"
import * as Attribute from "./attribute.ts"
import { asRecord, detailsOf, type Output } from "./client.ts"
import * as Expression from "./expression.ts"
import { keyType } from "./fields.ts"
import { on, onKey, to } from "./operators.ts"
import type {
  Actions,
  Call,
  ConditionOptions,
  DeleteOptions,
  Index,
  Indexes,
  KeyCondition,
  KeyOf,
  ListOptions,
  Names,
  On,
  OnKey,
  Page,
  PutOptions,
  Table,
  TableDefinition,
  TableDescription,
  TransactGet,
  TransactWrite,
  UpdateOptions
} from "./tableModel.ts"

/** How often what was left of a batch is sent again, and how long it waits, in milliseconds. */
const batches = { rounds: 10, first: 50, longest: 5_000, atOnce: 4 }

const plain = (item: unknown): Either.Either<Record<string, unknown>, Attribute.Refused> => Attribute.unmarshalMap(item)

export const plainItem = (item: unknown): Option.Option<Readonly<Record<string, unknown>>> =>
  item === undefined ? Option.none() : Either.getRight(plain(item))

const listOf = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

const numberOf = (value: unknown): number => (typeof value === "number" ? value : 0)

export const makeService = (call: Call, connection: string) => {
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

  const table = <
    A extends object,
    I extends object,
    const PK extends Names<A, I>,
    const SK extends Names<A, I> = never,
    const Ix extends Indexes<Names<A, I>> = Readonly<Record<never, never>>
  >(
    definition: TableDefinition<A, I, PK, SK, Ix>
  ): Table<A, I, PK, SK, Ix> => {
    const { name, partitionKey, schema, sortKey } = definition
    const keyNames: ReadonlyArray<string> = sortKey === undefined ? [partitionKey] : [partitionKey, sortKey]
    const encodeItem = Schema.encode(schema)
    const decodeItem = ParseResult.decodeUnknown(schema)
    const encoders = new Map<string, (value: unknown) => Effect.Effect<unknown, ParseResult.ParseError>>()

    /** One attribute as it is stored. */
    const encodeOne = (attribute: string, value: unknown): Effect.Effect<unknown, ParseResult.ParseError> => {
      let encode = encoders.get(attribute)
      if (encode === undefined) {
        const one = Schema.encodeUnknown(
          Schema.make<unknown, Readonly<Record<string, unknown>>>(AST.pick(schema.ast, [attribute]))
        )
        encode = (value) => Effect.map(one({ [attribute]: value }), (encoded) => encoded[attribute])
        encoders.set(attribute, encode)
      }
      return encode(value)
    }

    const wireItem = (method: string, item: A) =>
      Effect.flatMap(Effect.mapError(encodeItem(item), notStorable(method)), (encoded) =>
        right(method, Attribute.marshalMap(encoded))
      )

    const wireKey = (
      method: string,
      key: Readonly<Record<string, unknown>>
    ): Effect.Effect<Attribute.AttributeMap, ConnectionError> =>
      Effect.gen(function* () {
        const out: Record<string, Attribute.AttributeValue> = {}
        for (const attribute of keyNames) {
          const encoded = yield* Effect.mapError(encodeOne(attribute, key[attribute]), notStorable(method))
          out[attribute] = yield* right(method, Attribute.marshal(encoded, attribute))
        }
        return out
      })

    const read = (method: string, item: unknown): Effect.Effect<A, ConnectionError> => {
      const value = plain(item)
      return Either.isLeft(value)
        ? failure("Unknown", method, `${value.left.path}: ${value.left.why}`)
        : ParseResult.mapError(decodeItem(value.right), notReadable(method))
    }

    const decodeNow = ParseResult.decodeUnknownEither(schema)

    /** The items of a page. Nearly all of them are read at once; what is not is read again as an effect. */
    const readAll = (
      method: string,
      items: ReadonlyArray<unknown>
    ): Effect.Effect<ReadonlyArray<A>, ConnectionError> => {
      const found: Array<A> = []
      for (const item of items) {
        const value = plain(item)
        const decoded = Either.isLeft(value) ? undefined : decodeNow(value.right)
        if (decoded === undefined || Either.isLeft(decoded)) return Effect.forEach(items, (one) => read(method, one))
        found.push(decoded.right)
      }
      return Effect.succeed(found)
    }

    const readOption = (method: string, item: unknown): Effect.Effect<Option.Option<A>, ConnectionError> =>
      item === undefined ? Effect.succeedNone : Effect.map(read(method, item), Option.some)

    const conditionFields = (
      given: {
        readonly condition?: ((on: On<I>) => Expression.Condition) | undefined
        readonly returnOld?: boolean | undefined
      },
      at: Expression.Placeholders
    ): Output => ({
      ...(given.condition === undefined ? {} : { ConditionExpression: Expression.condition(given.condition(on), at) }),
      ...(given.returnOld === true ? { ReturnValuesOnConditionCheckFailure: "ALL_OLD" } : {})
    })

    const putFields = (method: string, item: A, options: ConditionOptions<I>): Effect.Effect<Output, ConnectionError> =>
      Effect.flatMap(wireItem(method, item), (wire) =>
        building(method, () => {
          const at = new Expression.Placeholders()
          const fields = conditionFields(options, at)
          return { TableName: name, Item: wire, ...fields, ...at.fields }
        })
      )

    const deleteFields = (
      method: string,
      key: KeyOf<A, PK, SK>,
      options: ConditionOptions<I>
    ): Effect.Effect<Output, ConnectionError> =>
      Effect.flatMap(wireKey(method, key), (wire) =>
        building(method, () => {
          const at = new Expression.Placeholders()
          const fields = conditionFields(options, at)
          return { TableName: name, Key: wire, ...fields, ...at.fields }
        })
      )

    const updateFields = (
      method: string,
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options: ConditionOptions<I>
    ): Effect.Effect<{ readonly input: Output; readonly idempotent: boolean }, ConnectionError> =>
      Effect.flatMap(wireKey(method, key), (wire) =>
        building(method, () => {
          const at = new Expression.Placeholders()
          const made = actions(to)
          const text = Expression.update(made, at)
          const fields = conditionFields(options, at)
          return {
            input: { TableName: name, Key: wire, UpdateExpression: text, ...fields, ...at.fields },
            idempotent: options.condition === undefined && Expression.isIdempotent(made)
          }
        })
      )

    function put(
      item: A,
      options: PutOptions<I> & { readonly returnValues: "old" }
    ): Effect.Effect<Option.Option<A>, ConnectionError>
    function put(
      item: A,
      options?: PutOptions<I> & { readonly returnValues?: "none" | undefined }
    ): Effect.Effect<void, ConnectionError>
    function put(item: A, options: PutOptions<I> = {}): Effect.Effect<Option.Option<A> | undefined, ConnectionError> {
      const old = options.returnValues === "old"
      return Effect.flatMap(putFields("PutItem", item, options), (input) =>
        Effect.flatMap(
          call(
            "PutItem",
            old ? { ...input, ReturnValues: "ALL_OLD" } : input,
            options.idempotent ?? (options.condition === undefined && !old)
          ),
          (output) => (old ? readOption("PutItem", output["Attributes"]) : Effect.succeed(undefined))
        )
      )
    }

    function update(
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options: UpdateOptions<I> & { readonly returnValues: "new" }
    ): Effect.Effect<A, ConnectionError>
    function update(
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options: UpdateOptions<I> & { readonly returnValues: "old" }
    ): Effect.Effect<Option.Option<A>, ConnectionError>
    function update(
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options?: UpdateOptions<I> & { readonly returnValues?: "none" | undefined }
    ): Effect.Effect<void, ConnectionError>
    function update(
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options: UpdateOptions<I> = {}
    ): Effect.Effect<A | Option.Option<A> | undefined, ConnectionError> {
      const { returnValues = "none" } = options
      return Effect.flatMap(updateFields("UpdateItem", key, actions, options), ({ idempotent, input }) =>
        Effect.flatMap(
          call(
            "UpdateItem",
            returnValues === "none"
              ? input
              : { ...input, ReturnValues: returnValues === "new" ? "ALL_NEW" : "ALL_OLD" },
            options.idempotent ?? (idempotent && returnValues !== "old")
          ),
          (output): Effect.Effect<A | Option.Option<A> | undefined, ConnectionError> =>
            returnValues === "new"
              ? read("UpdateItem", output["Attributes"] ?? {})
              : returnValues === "old"
                ? readOption("UpdateItem", output["Attributes"])
                : Effect.succeed(undefined)
        )
      )
    }

    function remove(
      key: KeyOf<A, PK, SK>,
      options: DeleteOptions<I> & { readonly returnValues: "old" }
    ): Effect.Effect<Option.Option<A>, ConnectionError>
    function remove(
      key: KeyOf<A, PK, SK>,
      options?: DeleteOptions<I> & { readonly returnValues?: "none" | undefined }
    ): Effect.Effect<void, ConnectionError>
    function remove(
      key: KeyOf<A, PK, SK>,
      options: DeleteOptions<I> = {}
    ): Effect.Effect<Option.Option<A> | undefined, ConnectionError> {
      const old = options.returnValues === "old"
      return Effect.flatMap(deleteFields("DeleteItem", key, options), (input) =>
        Effect.flatMap(
          call(
            "DeleteItem",
            old ? { ...input, ReturnValues: "ALL_OLD" } : input,
            options.idempotent ?? (options.condition === undefined && !old)
          ),
          (output) => (old ? readOption("DeleteItem", output["Attributes"]) : Effect.succeed(undefined))
        )
      )
    }

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

    interface AnyQuery extends ListOptions<I> {
      readonly index?: string | undefined
      readonly partition: unknown
      readonly sort?: ((on: OnKey<unknown>) => KeyCondition) | undefined
      readonly order?: "ascending" | "descending" | undefined
    }

    const queryPages = (options: AnyQuery): Stream.Stream<Page<A>, ConnectionError> =>
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

    interface AnyScan extends ListOptions<I> {
      readonly index?: string | undefined
      readonly segments?: number | undefined
    }

    const scanPages = (options: AnyScan = {}): Stream.Stream<Page<A>, ConnectionError> =>
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

    /** Sends in pieces, a few at once; what comes back as not done is sent again, until the rounds are over. */
    const inBatches = <W>(
      all: ReadonlyArray<W>,
      size: number,
      send: (some: ReadonlyArray<W>) => Effect.Effect<ReadonlyArray<W>, ConnectionError>
    ): Effect.Effect<ReadonlyArray<W>, ConnectionError> => {
      const pieces: Array<ReadonlyArray<W>> = []
      for (let from = 0; from < all.length; from += size) pieces.push(all.slice(from, from + size))
      const settle = (piece: ReadonlyArray<W>, round: number): Effect.Effect<ReadonlyArray<W>, ConnectionError> =>
        Effect.flatMap(send(piece), (left) => {
          if (left.length === 0 || round === batches.rounds) return Effect.succeed(left)
          // where some were done it is not so bad
          const next = left.length < piece.length ? Math.min(round, 2) : round
          const pause = Math.min(batches.longest, batches.first * 2 ** next)
          return Effect.zipRight(
            Effect.sleep(Duration.millis(pause / 2 + Crypto.randomInt(Math.ceil(pause / 2)))),
            settle(left, left.length < piece.length ? round : round + 1)
          )
        })
      return Effect.map(
        Effect.forEach(pieces, (piece) => settle(piece, 0), { concurrency: batches.atOnce }),
        (left) => left.flat(1)
      )
    }

    /** The same for the same key: the service writes numbers in its own way, `1.1` for `1.10`. */
    const nameOf = (key: unknown): string => {
      const record = asRecord(key)
      return JSON.stringify(
        keyNames.map((attribute) => {
          const value = record?.[attribute]
          const number = asRecord(value)?.["N"]
          return typeof number === "string" ? { N: Attribute.canonical(number) } : value
        })
      )
    }

    const describe: Effect.Effect<TableDescription, ConnectionError> = Effect.map(
      call("DescribeTable", { TableName: name }, true),
      (output) => {
        const found = asRecord(output["Table"]) ?? {}
        const indexes: Record<string, string> = {}
        for (const one of listOf(found["GlobalSecondaryIndexes"])) {
          const index = asRecord(one)
          indexes[String(index?.["IndexName"])] = String(index?.["IndexStatus"])
        }
        return {
          status: String(found["TableStatus"]),
          indexes,
          itemCount: numberOf(found["ItemCount"]),
          sizeBytes: numberOf(found["TableSizeBytes"])
        }
      }
    )

    /** Asks until it is so, or the time is over. */
    const waiting = (
      method: string,
      timeout: Duration.DurationInput | undefined,
      isSo: Effect.Effect<boolean, ConnectionError>
    ): Effect.Effect<void, ConnectionError> =>
      Effect.gen(function* () {
        const limit = Duration.toMillis(timeout ?? "2 minutes")
        const end = (yield* Clock.currentTimeMillis) + limit
        let pause = 50
        while (!(yield* isSo)) {
          const now = yield* Clock.currentTimeMillis
          if (now >= end) {
            return yield* failure(
              "Timeout",
              method,
              `the table was not ready within ${limit} ms: it may still become so`
            )
          }
          yield* Effect.sleep(Duration.millis(Math.min(pause, end - now)))
          pause = Math.min(2_000, pause * 1.5)
        }
      })

    const waitUntilActive = (timeout?: Duration.DurationInput): Effect.Effect<void, ConnectionError> =>
      waiting(
        "waitUntilActive",
        timeout,
        Effect.map(describe, ({ indexes, status }) =>
          [status, ...Object.values(indexes)].every((one) => one === "ACTIVE")
        ).pipe(
          // it is created and not seen everywhere yet
          Effect.catchIf(
            (error) => error.reason === "NotFound",
            () => Effect.succeed(false)
          )
        )
      )

    const createTable: Table<A, I, PK, SK, Ix>["createTable"] = (options = {}) =>
      Effect.gen(function* () {
        const indexes = Object.entries<Index>(definition.indexes ?? {})
        const attributes = new Set<string>(keyNames)
        for (const [, index] of indexes) {
          attributes.add(index.partitionKey)
          if (index.sortKey !== undefined) attributes.add(index.sortKey)
        }
        const definitions: Array<Output> = []
        for (const attribute of attributes) {
          const [signature] = AST.getPropertySignatures(AST.encodedAST(AST.pick(schema.ast, [attribute])))
          const type = signature === undefined ? undefined : keyType(signature.type)
          if (type === undefined) {
            return yield* failure(
              "InvalidSettings",
              "createTable",
              `${attribute} is a key: it has to be stored as a string, a number or bytes`,
              false
            )
          }
          definitions.push({ AttributeName: attribute, AttributeType: type })
        }
        const keys = (partition: string, sort: string | undefined) => [
          { AttributeName: partition, KeyType: "HASH" },
          ...(sort === undefined ? [] : [{ AttributeName: sort, KeyType: "RANGE" }])
        ]
        const throughput =
          options.throughput === undefined
            ? undefined
            : { ReadCapacityUnits: options.throughput.read, WriteCapacityUnits: options.throughput.write }
        const indexOf = ([indexName, index]: readonly [string, Index], global: boolean): Output => ({
          IndexName: indexName,
          KeySchema: keys(index.partitionKey, index.sortKey),
          Projection: { ProjectionType: "ALL" },
          ...(global && throughput !== undefined ? { ProvisionedThroughput: throughput } : {})
        })
        const local = indexes.filter(([, index]) => index.local === true).map((one) => indexOf(one, false))
        const global = indexes.filter(([, index]) => index.local !== true).map((one) => indexOf(one, true))
        yield* call(
          "CreateTable",
          {
            TableName: name,
            AttributeDefinitions: definitions,
            KeySchema: keys(partitionKey, sortKey),
            ...(throughput === undefined
              ? { BillingMode: "PAY_PER_REQUEST" }
              : { BillingMode: "PROVISIONED", ProvisionedThroughput: throughput }),
            ...(local.length === 0 ? {} : { LocalSecondaryIndexes: local }),
            ...(global.length === 0 ? {} : { GlobalSecondaryIndexes: global })
          },
          false
        )
        yield* waitUntilActive(options.timeout)
        if (definition.timeToLive !== undefined) {
          yield* call(
            "UpdateTimeToLive",
            {
              TableName: name,
              TimeToLiveSpecification: { AttributeName: definition.timeToLive, Enabled: true }
            },
            false
          )
        }
      })

    return {
      name,
      get: (key, options) =>
        Effect.flatMap(wireKey("GetItem", key), (wire) =>
          Effect.flatMap(
            call(
              "GetItem",
              { TableName: name, Key: wire, ...(options?.consistent === true ? { ConsistentRead: true } : {}) },
              true
            ),
            (output) => readOption("GetItem", output["Item"])
          )
        ),
      put,
      insert: (item, options) => put(item, { ...options, condition: () => on.notExists([partitionKey]) }),
      update,
      delete: remove,
      query: (options) => itemsOf(queryPages(options), options.limit),
      queryPages,
      scan: (options) => itemsOf(scanPages(options), options?.limit),
      scanPages,
      getMany: (keys, options) =>
        Effect.gen(function* () {
          const wires = yield* Effect.forEach(keys, (key) => wireKey("BatchGetItem", key))
          // the service refuses what is there twice
          const distinct = new Map(wires.map((wire) => [nameOf(wire), wire]))
          const found = new Map<string, A>()
          const left = yield* inBatches([...distinct.values()], 100, (some) =>
            Effect.gen(function* () {
              const output = yield* call(
                "BatchGetItem",
                {
                  RequestItems: {
                    [name]: { Keys: some, ...(options?.consistent === true ? { ConsistentRead: true } : {}) }
                  }
                },
                true
              )
              for (const item of listOf(asRecord(output["Responses"])?.[name])) {
                found.set(nameOf(item), yield* read("BatchGetItem", item))
              }
              const rest = new Set(listOf(asRecord(asRecord(output["UnprocessedKeys"])?.[name])?.["Keys"]).map(nameOf))
              return some.filter((wire) => rest.has(nameOf(wire)))
            })
          )
          const missing = new Set(left.map(nameOf))
          return {
            items: wires.map((wire) => Option.fromNullable(found.get(nameOf(wire)))),
            left: keys.filter((_, index) => missing.has(nameOf(wires[index])))
          }
        }),
      writeMany: (batch) =>
        Effect.gen(function* () {
          type Write =
            | { readonly put: A; readonly wire: Output }
            | { readonly remove: KeyOf<A, PK, SK>; readonly wire: Output }
          const writes = new Map<string, Write>()
          for (const item of batch.put ?? []) {
            const wire = yield* wireItem("BatchWriteItem", item)
            writes.set(nameOf(wire), { put: item, wire: { PutRequest: { Item: wire } } })
          }
          for (const key of batch.delete ?? []) {
            const wire = yield* wireKey("BatchWriteItem", key)
            writes.set(nameOf(wire), { remove: key, wire: { DeleteRequest: { Key: wire } } })
          }
          const left = yield* inBatches([...writes], 25, (some) =>
            Effect.map(
              call("BatchWriteItem", { RequestItems: { [name]: some.map(([, { wire }]) => wire) } }, true),
              (output) => {
                const rest = new Set(
                  listOf(asRecord(output["UnprocessedItems"])?.[name]).map((one) => {
                    const write = asRecord(one)
                    return nameOf(
                      asRecord(write?.["PutRequest"])?.["Item"] ?? asRecord(write?.["DeleteRequest"])?.["Key"]
                    )
                  })
                )
                return some.filter(([key]) => rest.has(key))
              }
            )
          )
          return {
            put: left.flatMap(([, write]) => ("put" in write ? [write.put] : [])),
            delete: left.flatMap(([, write]) => ("remove" in write ? [write.remove] : []))
          }
        }),
      transact: {
        put: (item, options) => ({
          wire: Effect.map(putFields("TransactWriteItems", item, options ?? {}), (fields) => ({ Put: fields }))
        }),
        update: (key, actions, options) => ({
          wire: Effect.map(updateFields("TransactWriteItems", key, actions, options ?? {}), ({ input }) => ({
            Update: input
          }))
        }),
        delete: (key, options) => ({
          wire: Effect.map(deleteFields("TransactWriteItems", key, options ?? {}), (fields) => ({ Delete: fields }))
        }),
        check: (key, condition, options) => ({
          wire: Effect.map(deleteFields("TransactWriteItems", key, { ...options, condition }), (fields) => ({
            ConditionCheck: fields
          }))
        }),
        get: (key) => ({
          wire: Effect.map(wireKey("TransactGetItems", key), (wire) => ({ Get: { TableName: name, Key: wire } })),
          read: (item) => read("TransactGetItems", item)
        })
      },
      oldItem: (error) => {
        const value = plainItem(detailsOf(error).item)
        return Option.flatMap(value, Schema.decodeUnknownOption(schema))
      },
      createTable,
      describe,
      waitUntilActive,
      deleteTable: Effect.zipRight(
        call("DeleteTable", { TableName: name }, false),
        waiting(
          "deleteTable",
          undefined,
          Effect.map(describe, () => false).pipe(
            Effect.catchIf(
              (error) => error.reason === "NotFound",
              () => Effect.succeed(true)
            )
          )
        )
      )
    }
  }

  /** The service takes no more in one transaction. */
  const mostInTransaction = 100

  const transactional = (method: string, count: number): Effect.Effect<void, ConnectionError> =>
    count === 0 || count > mostInTransaction
      ? failure("InvalidRequest", method, `a transaction has 1 to ${mostInTransaction} operations`, false)
      : Effect.void

  return {
    request: (operation: string, input: Output, options?: { readonly idempotent?: boolean | undefined }) =>
      call(
        operation,
        input,
        options?.idempotent ?? /^(Get|BatchGet|Query|Scan|Describe|List|TransactGet)/.test(operation)
      ),
    table,
    transactWrite: (
      operations: ReadonlyArray<TransactWrite>,
      options?: { readonly token?: string | undefined }
    ): Effect.Effect<void, ConnectionError> =>
      Effect.gen(function* () {
        yield* transactional("TransactWriteItems", operations.length)
        const items = yield* Effect.forEach(operations, ({ wire }) => wire)
        const token = options?.token ?? Crypto.randomUUID()
        if (!(token.length >= 1 && token.length <= 36)) {
          return yield* failure("InvalidRequest", "TransactWriteItems", "a token has 1 to 36 characters", false)
        }
        yield* call("TransactWriteItems", { TransactItems: items, ClientRequestToken: token }, true)
      }),
    transactGet: <const Gets extends ReadonlyArray<TransactGet<unknown>>>(gets: Gets) =>
      Effect.gen(function* () {
        yield* transactional("TransactGetItems", gets.length)
        const items = yield* Effect.forEach(gets, ({ wire }) => wire)
        const output = yield* call("TransactGetItems", { TransactItems: items }, true)
        const found = listOf(output["Responses"])
        const read: Array<Option.Option<unknown>> = []
        for (const [index, get] of gets.entries()) {
          const item = asRecord(found[index])?.["Item"]
          read.push(item === undefined ? Option.none() : Option.some(yield* get.read(item)))
        }
        // each was read by its own `read`
        return read as { readonly [K in keyof Gets]: Gets[K] extends TransactGet<infer A> ? Option.Option<A> : never }
      }),
    partiql: (
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
                for (const item of listOf(output["Items"])) rows.push(yield* right("ExecuteStatement", plain(item)))
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
  }
}

const toCursor = (key: Output): string => Buffer.from(JSON.stringify(key)).toString("base64url")
