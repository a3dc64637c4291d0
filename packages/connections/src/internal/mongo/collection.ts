/** The methods of a collection over the driver's. */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type * as Mongo from "mongodb"
import { watch } from "./changes.ts"
import * as Codec from "./codec.ts"
import {
  type Batch,
  type Client,
  type Core,
  cursorGrace,
  type DriverOptions,
  documents,
  limitOf,
  maxTimeMS,
  type Operation,
  operate,
  operationOf,
  taker
} from "./core.ts"
import { describe } from "./errors.ts"
import { leftOutAt, leftOutOfMatch } from "./filter.ts"
import type {
  AggregateOptions,
  BulkWriteOptions,
  BulkWriteResult,
  Collection,
  CollectionOptions,
  FindOneOptions,
  FindOptions,
  IndexDescription,
  ModifyOptions,
  OperationOptions,
  ReplaceOptions,
  UpdateOptions,
  UpdateResult,
  WriteModel
} from "./model.ts"
import { BulkWriteError, DocumentInvalid } from "./model.ts"
import { arm, type Told } from "./operation.ts"

type Documents = Mongo.Collection<Mongo.Document>

/** The options that the driver takes under the same names, where they were given. */
const given = <O extends object, K extends keyof O>(options: O | undefined, ...keys: ReadonlyArray<K>): Pick<O, K> => {
  const picked: Partial<Pick<O, K>> = {}
  if (options !== undefined) for (const key of keys) if (options[key] !== undefined) picked[key] = options[key]
  // exactly the keys that were asked for
  return picked as Pick<O, K>
}

export const make = <A, I extends object>(
  core: Core,
  name: string,
  codec: Codec.Codec<A>,
  options: CollectionOptions
): Collection<A, I> => {
  let seen: { readonly client: Client; readonly collection: Documents } | undefined
  let skipped = 0
  const skip = options.invalid === "skip" ? () => void skipped++ : undefined
  const take = codec.take(skip)

  const of = (client: Client): Documents => {
    if (seen?.client === client) return seen.collection
    const db = options.database === undefined ? client.db : client.mongo.db(options.database)
    const collection = db.collection(name, given(options, "readPreference", "readConcern", "writeConcern"))
    seen = { client, collection }
    return collection
  }

  const read = (method: string) => operationOf(core, method, false, name)
  const write = (method: string) => operationOf(core, method, true, name)
  const operations = {
    insertOne: write("insertOne"),
    insertMany: write("insertMany"),
    findOne: read("findOne"),
    find: read("find"),
    updateOne: write("updateOne"),
    updateMany: write("updateMany"),
    replaceOne: write("replaceOne"),
    deleteOne: write("deleteOne"),
    deleteMany: write("deleteMany"),
    findOneAndUpdate: write("findOneAndUpdate"),
    findOneAndReplace: write("findOneAndReplace"),
    findOneAndDelete: write("findOneAndDelete"),
    countDocuments: read("countDocuments"),
    estimatedCount: read("estimatedCount"),
    distinct: read("distinct"),
    aggregate: read("aggregate"),
    // $out and $merge write
    aggregateWrite: write("aggregate"),
    bulkWrite: write("bulkWrite"),
    createIndexes: write("createIndexes"),
    listIndexes: read("listIndexes"),
    dropIndex: write("dropIndex"),
    drop: write("drop"),
    watch: read("watch")
  }

  const run = <B>(
    operation: Operation,
    settings: OperationOptions | undefined,
    f: (collection: Documents, driver: DriverOptions & { readonly maxTimeMS?: number }, told: Told) => Promise<B>,
    grace?: number
  ): Effect.Effect<B, ConnectionError> => {
    const limit = limitOf(core, settings?.timeout ?? options.timeout)
    const more = {
      ...(settings?.comment === undefined ? {} : { comment: settings.comment }),
      ...(operation.write ? {} : { maxTimeMS: maxTimeMS(limit) })
    }
    return operate(core, operation, limit, (client, driver, told) => f(of(client), { ...driver, ...more }, told), grace)
  }

  const refuse = (operation: Operation, description: string) =>
    new ConnectionError({
      reason: "InvalidRequest",
      kind: core.kind,
      connection: core.name,
      method: operation.at.method,
      description,
      sent: false
    })

  /** Runs only with a filter that says what it means. */
  const filtered = <B, E>(
    operation: Operation,
    filter: unknown,
    effect: (filter: Mongo.Document) => Effect.Effect<B, E>
  ): Effect.Effect<B, E | ConnectionError> =>
    Effect.suspend((): Effect.Effect<B, E | ConnectionError> => {
      const problem = filterProblem(filter)
      if (problem !== undefined) return refuse(operation, problem)
      return isDocument(filter) ? effect(filter) : refuse(operation, noFilter)
    })

  const decoded = (document: Mongo.Document | null): Effect.Effect<Option.Option<A>, DocumentInvalid> => {
    if (document === null) return Effect.succeed(Option.none())
    const found = codec.decode(document)
    if (Either.isRight(found)) return Effect.succeed(Option.some(found.right))
    if (skip === undefined) return Effect.fail(found.left)
    skip()
    return Effect.succeed(Option.none())
  }

  const all = <B>(batch: Batch<B>): Effect.Effect<ReadonlyArray<B>, DocumentInvalid> =>
    batch.invalid === undefined ? Effect.succeed(batch.documents) : Effect.fail(batch.invalid)

  type Id = Collection<A, I>["insertOne"] extends (document: never) => Effect.Effect<infer R, unknown> ? R : never

  // What the schema gives for `_id`: compiled of the same schema as `A`, which the compiler cannot see.
  const idOf = (id: unknown): Effect.Effect<Id, DocumentInvalid> => Effect.map(codec.decodeId(id), (it) => it as Id)

  // Without an effect for each of many.
  const idsOf = (many: ReadonlyArray<Mongo.Document>): Effect.Effect<ReadonlyArray<Id>, DocumentInvalid> =>
    Effect.suspend((): Effect.Effect<ReadonlyArray<Id>, DocumentInvalid> => {
      const ids: Array<Id> = []
      for (const document of many) {
        const id = codec.decodeId(document["_id"])
        if (Either.isLeft(id)) return Effect.fail(id.left)
        ids.push(id.right as Id)
      }
      return Effect.succeed(ids)
    })

  /** Anew for each run of the effect, for the driver writes the `_id` into what it is given. */
  const encodedNew = (document: unknown): Effect.Effect<Mongo.Document, DocumentInvalid> =>
    Effect.suspend(() => codec.encodeNew(document))

  const insertOne: Collection<A, I>["insertOne"] = (document, settings) =>
    Effect.flatMap(encodedNew(document), (encoded) =>
      Effect.flatMap(
        run(operations.insertOne, settings, (collection, driver) => collection.insertOne(encoded, driver)),
        (result) => idOf(result.insertedId)
      )
    )

  const encodeAll = (
    all: ReadonlyArray<unknown>,
    encode: (one: unknown) => Either.Either<Mongo.Document, DocumentInvalid>
  ): Either.Either<Array<Mongo.Document>, DocumentInvalid> => {
    const encoded: Array<Mongo.Document> = []
    for (const [index, one] of all.entries()) {
      const result = encode(one)
      if (Either.isLeft(result)) {
        const { left } = result
        return Either.left(
          new DocumentInvalid({ ...left, path: left.path === "" ? `${index}` : `${index}.${left.path}` })
        )
      }
      encoded.push(result.right)
    }
    return Either.right(encoded)
  }

  const bulk = <B>(effect: Effect.Effect<B, ConnectionError>): Effect.Effect<B, ConnectionError | BulkWriteError> =>
    Effect.catchAll(effect, (error): Effect.Effect<never, ConnectionError | BulkWriteError> => {
      const failure = bulkError(core, name, error)
      return Effect.fail(failure ?? error)
    })

  const insertMany: Collection<A, I>["insertMany"] = (many, settings) =>
    many.length === 0
      ? Effect.succeed([])
      : Effect.flatMap(
          Effect.suspend(() => encodeAll(many, codec.encodeNew)),
          (encoded) =>
            Effect.flatMap(
              bulk(
                run(operations.insertMany, settings, (collection, driver) =>
                  collection.insertMany(encoded, { ...driver, ordered: settings?.ordered ?? true })
                )
              ),
              () => idsOf(encoded)
            )
        )

  const findOneBy = (filter: Mongo.Document, settings: FindOneOptions | undefined) =>
    Effect.flatMap(
      run(operations.findOne, settings, (collection, driver) =>
        collection.findOne(filter, {
          ...driver,
          ...projection(settings?.projection),
          ...given(settings, "sort", "skip", "collation", "hint")
        })
      ),
      decoded
    )
  const projection = (own: Mongo.Document | undefined): { readonly projection?: Mongo.Document } => {
    const found = own ?? options.projection
    return found === undefined ? {} : { projection: found }
  }

  const findOptions = (settings: FindOptions | undefined) => ({
    batchSize: settings?.batchSize ?? 1_000,
    ...projection(settings?.projection),
    ...given(settings, "sort", "skip", "limit", "collation", "hint", "allowDiskUse"),
    ...(settings?.comment === undefined ? {} : { comment: settings.comment })
  })

  const find: Collection<A, I>["find"] = (filter, settings) =>
    Stream.unwrap(
      filtered(operations.find, filter, (filter) =>
        Effect.succeed(
          documents(
            core,
            operations.find,
            limitOf(core, settings?.timeout ?? options.timeout),
            (client, driver) => of(client).find(filter, { ...driver, ...findOptions(settings) }),
            take
          )
        )
      )
    )

  const findAll: Collection<A, I>["findAll"] = (filter, settings) =>
    filtered(operations.find, filter, (filter) =>
      Effect.flatMap(
        run(
          operations.find,
          settings,
          (collection, driver, told) => allOf(collection.find(filter, { ...driver, ...findOptions(settings) }), told),
          cursorGrace
        ),
        (found) => all(take(found))
      )
    )

  const updateOptions = (settings: UpdateOptions | undefined) => ({
    ...given(settings, "upsert", "collation", "hint", "let"),
    ...(settings?.arrayFilters === undefined ? {} : { arrayFilters: [...settings.arrayFilters] })
  })

  const updateResult = (result: Mongo.UpdateResult): Effect.Effect<UpdateResult<Id>, DocumentInvalid> => {
    const counts = { matched: result.matchedCount, modified: result.modifiedCount }
    return result.upsertedId === null || result.upsertedId === undefined
      ? Effect.succeed({ ...counts, upsertedId: Option.none() })
      : Effect.map(idOf(result.upsertedId), (id) => ({ ...counts, upsertedId: Option.some(id) }))
  }

  const update =
    (operation: Operation, method: "updateOne" | "updateMany"): Collection<A, I>["updateOne"] =>
    (filter, change, settings) =>
      filtered(operation, filter, (filter) =>
        Effect.flatMap(
          run(operation, settings, (collection, driver) =>
            collection[method](filter, writable(change), { ...driver, ...updateOptions(settings) })
          ),
          updateResult
        )
      )

  const replaceOne: Collection<A, I>["replaceOne"] = (filter, document, settings) =>
    filtered(operations.replaceOne, filter, (filter) =>
      Effect.flatMap(encodedNew(document), (encoded) =>
        Effect.flatMap(
          run(operations.replaceOne, settings, (collection, driver) =>
            collection.replaceOne(filter, encoded, {
              ...driver,
              ...given(settings, "upsert", "collation", "hint", "let")
            })
          ),
          updateResult
        )
      )
    )

  const remove =
    (operation: Operation, method: "deleteOne" | "deleteMany"): Collection<A, I>["deleteOne"] =>
    (filter, settings) =>
      filtered(operation, filter, (filter) =>
        Effect.map(
          run(operation, settings, (collection, driver) =>
            collection[method](filter, { ...driver, ...given(settings, "collation", "hint", "let") })
          ),
          (result) => result.deletedCount
        )
      )

  const modifyOptions = (settings: (ModifyOptions & UpdateOptions) | ReplaceOptions | undefined) =>
    ({
      returnDocument:
        settings !== undefined && "returning" in settings && settings.returning === "before" ? "before" : "after",
      includeResultMetadata: false,
      ...projection(settings !== undefined && "projection" in settings ? settings.projection : undefined)
    }) as const

  const findOneAndUpdate: Collection<A, I>["findOneAndUpdate"] = (filter, change, settings) =>
    filtered(operations.findOneAndUpdate, filter, (filter) =>
      Effect.flatMap(
        run(operations.findOneAndUpdate, settings, (collection, driver) =>
          collection.findOneAndUpdate(filter, writable(change), {
            ...driver,
            ...modifyOptions(settings),
            ...updateOptions(settings),
            ...given(settings, "sort")
          })
        ),
        decoded
      )
    )

  const findOneAndReplace: Collection<A, I>["findOneAndReplace"] = (filter, document, settings) =>
    filtered(operations.findOneAndReplace, filter, (filter) =>
      Effect.flatMap(encodedNew(document), (encoded) =>
        Effect.flatMap(
          run(operations.findOneAndReplace, settings, (collection, driver) =>
            collection.findOneAndReplace(filter, encoded, {
              ...driver,
              ...modifyOptions(settings),
              ...given(settings, "sort", "upsert", "collation", "hint", "let")
            })
          ),
          decoded
        )
      )
    )

  const findOneAndDelete: Collection<A, I>["findOneAndDelete"] = (filter, settings) =>
    filtered(operations.findOneAndDelete, filter, (filter) =>
      Effect.flatMap(
        run(operations.findOneAndDelete, settings, (collection, driver) =>
          collection.findOneAndDelete(filter, {
            ...driver,
            includeResultMetadata: false,
            ...projection(settings?.projection),
            ...given(settings, "sort", "collation", "hint", "let")
          })
        ),
        decoded
      )
    )

  const writes = (pipeline: ReadonlyArray<Mongo.Document>): boolean =>
    pipeline.some((stage) => "$out" in stage || "$merge" in stage)

  const aggregateOptions = (settings: AggregateOptions | undefined) => ({
    batchSize: settings?.batchSize ?? 1_000,
    ...given(settings, "allowDiskUse", "collation", "hint", "let"),
    ...(settings?.comment === undefined ? {} : { comment: settings.comment })
  })

  /** Runs only stages whose `$match` says what it means. */
  const staged = (pipeline: ReadonlyArray<Mongo.Document>): Effect.Effect<Operation, ConnectionError> =>
    Effect.suspend(() => {
      const operation = writes(pipeline) ? operations.aggregateWrite : operations.aggregate
      const problem = problemAt("pipeline", leftOutOfMatch(pipeline))
      return problem === undefined ? Effect.succeed(operation) : refuse(operation, problem)
    })

  const aggregate: Collection<A, I>["aggregate"] = (pipeline, schema, settings) =>
    Stream.unwrap(
      Effect.map(staged(pipeline), (operation) =>
        documents(
          core,
          operation,
          limitOf(core, settings?.timeout ?? options.timeout),
          (client, driver) => of(client).aggregate([...pipeline], { ...driver, ...aggregateOptions(settings) }),
          taker(Codec.decoder(name, schema), skip)
        )
      )
    )

  const aggregateAll: Collection<A, I>["aggregateAll"] = (pipeline, schema, settings) =>
    Effect.flatMap(staged(pipeline), (operation) =>
      Effect.flatMap(
        run(
          operation,
          settings,
          (collection, driver, told) =>
            allOf(collection.aggregate([...pipeline], { ...driver, ...aggregateOptions(settings) }), told),
          cursorGrace
        ),
        (found) => all(taker(Codec.decoder(name, schema), skip)(found))
      )
    )

  const distinct: Collection<A, I>["distinct"] = (path, schema, filter, settings) => {
    const decode = Codec.decoder(name, schema, "value")
    return filtered(operations.distinct, filter ?? {}, (filter) =>
      Effect.flatMap(
        run(operations.distinct, settings, (collection, driver) => collection.distinct(path, filter, driver)),
        (values) => Effect.forEach(values, (value: unknown) => decode(value))
      )
    )
  }

  const model = (
    one: WriteModel<A, I>,
    filter: Mongo.Document
  ): Either.Either<Mongo.AnyBulkWriteOperation<Mongo.Document>, DocumentInvalid> => {
    if ("insertOne" in one) {
      return Either.map(codec.encodeNew(one.insertOne), (document) => ({ insertOne: { document } }))
    }
    if ("replaceOne" in one) {
      const { replacement, upsert } = one.replaceOne
      return Either.map(codec.encodeNew(replacement), (encoded) => ({
        replaceOne: { filter, replacement: encoded, ...(upsert === undefined ? {} : { upsert }) }
      }))
    }
    if ("updateOne" in one) {
      const { filter: _, update, ...rest } = one.updateOne
      return Either.right({ updateOne: { filter, update: writable(update), ...updateOptions(rest) } })
    }
    if ("updateMany" in one) {
      const { filter: _, update, ...rest } = one.updateMany
      return Either.right({ updateMany: { filter, update: writable(update), ...updateOptions(rest) } })
    }
    return Either.right("deleteOne" in one ? { deleteOne: { filter } } : { deleteMany: { filter } })
  }

  const bulkWrite: Collection<A, I>["bulkWrite"] = (models, settings?: BulkWriteOptions) =>
    Effect.suspend((): Effect.Effect<BulkWriteResult, ConnectionError | BulkWriteError | DocumentInvalid> => {
      if (models.length === 0) return Effect.succeed({ inserted: 0, matched: 0, modified: 0, deleted: 0, upserted: 0 })
      const encoded: Array<Mongo.AnyBulkWriteOperation<Mongo.Document>> = []
      for (const [index, one] of models.entries()) {
        const filter: unknown = "insertOne" in one ? {} : Object.values(one)[0]?.filter
        const problem = filterProblem(filter)
        if (problem !== undefined) return refuse(operations.bulkWrite, `operation ${index}: ${problem}`)
        const result = model(one, isDocument(filter) ? filter : {})
        if (Either.isLeft(result)) {
          return Effect.fail(new DocumentInvalid({ ...result.left, path: `${index}.${result.left.path}` }))
        }
        encoded.push(result.right)
      }
      return Effect.map(
        bulk(
          run(operations.bulkWrite, settings, (collection, driver) =>
            collection.bulkWrite(encoded, { ...driver, ordered: settings?.ordered ?? true })
          )
        ),
        (result) => ({
          inserted: result.insertedCount,
          matched: result.matchedCount,
          modified: result.modifiedCount,
          deleted: result.deletedCount,
          upserted: result.upsertedCount
        })
      )
    })

  const indexOf = ({ expireAfter, key, ...index }: IndexDescription): Mongo.IndexDescription => ({
    key: { ...key },
    ...given(index, "name", "unique", "sparse", "partialFilterExpression", "collation", "hidden"),
    ...(expireAfter === undefined ? {} : { expireAfterSeconds: Math.ceil(Duration.toSeconds(expireAfter)) })
  })

  return {
    name,
    insertOne,
    insertMany,
    findOne: (filter, settings) => filtered(operations.findOne, filter, (filter) => findOneBy(filter, settings)),
    findById: (id, settings) =>
      Effect.flatMap(
        Effect.suspend(() => codec.encodeId(id)),
        (_id) => filtered(operations.findOne, { _id }, (filter) => findOneBy(filter, settings))
      ),
    find,
    findAll,
    updateOne: update(operations.updateOne, "updateOne"),
    updateMany: update(operations.updateMany, "updateMany"),
    replaceOne,
    deleteOne: remove(operations.deleteOne, "deleteOne"),
    deleteMany: remove(operations.deleteMany, "deleteMany"),
    findOneAndUpdate,
    findOneAndReplace,
    findOneAndDelete,
    countDocuments: (filter = {}, settings) =>
      filtered(operations.countDocuments, filter, (filter) =>
        run(operations.countDocuments, settings, (collection, driver) => collection.countDocuments(filter, driver))
      ),
    estimatedCount: run(operations.estimatedCount, undefined, (collection, driver) =>
      collection.estimatedDocumentCount(driver)
    ),
    distinct,
    aggregate,
    aggregateAll,
    bulkWrite,
    createIndexes: (indexes) =>
      run(operations.createIndexes, undefined, (collection, driver) =>
        collection.createIndexes(indexes.map(indexOf), driver)
      ),
    listIndexes: run(operations.listIndexes, undefined, (collection, { session }, told) =>
      allOf(collection.listIndexes({ ...(session === undefined ? {} : { session }) }), told)
    ),
    dropIndex: (index) =>
      Effect.asVoid(run(operations.dropIndex, undefined, (collection, driver) => collection.dropIndex(index, driver))),
    drop: run(operations.drop, undefined, (collection, driver) => collection.drop(driver)),
    watch: (settings) =>
      watch(
        core,
        operations.watch,
        (client) => of(client),
        (document) => codec.decode(document),
        skip,
        settings
      ),
    skipped: Effect.sync(() => skipped)
  }
}

const isDocument = (value: unknown): value is Mongo.Document => typeof value === "object" && value !== null

const isStages = (update: unknown): update is ReadonlyArray<Mongo.Document> => Array.isArray(update)

/** What an update does, as the driver takes it. What is neither operators nor stages it refuses by itself. */
const writable = (update: unknown): Mongo.Document | Array<Mongo.Document> =>
  isStages(update) ? [...update] : isDocument(update) ? update : {}

/** All documents of a cursor. Who does not wait for them any more does not get the rest of them either. */
const allOf = async <D>(cursor: Mongo.AbstractCursor<D>, told: Told): Promise<Array<D>> => {
  arm(cursor, told.signal)
  const all: Array<D> = []
  while (await cursor.hasNext()) {
    for (const document of cursor.readBufferedDocuments()) all.push(document)
    if (told.abandoned()) await cursor.close()
  }
  return all
}

const noFilter = "there is no filter: {} is the one that matches all documents"

/** What is wrong with a filter, for the caller's eyes: a path, no value. */
const filterProblem = (filter: unknown): string | undefined => {
  if (typeof filter !== "object" || filter === null || Array.isArray(filter)) return noFilter
  return problemAt("filter", leftOutAt(filter))
}

const problemAt = (what: string, path: string | undefined): string | undefined =>
  path === undefined
    ? undefined
    : `the ${what} has undefined or a function at ${shortened(path)}: it would match as if that were not there`

const shortened = (path: string): string => (path.length > 200 ? `${path.slice(0, 200)}…` : path)

/** Which documents of a write of many were refused, if that is what happened. */
const bulkError = (core: Core, collection: string, error: ConnectionError): BulkWriteError | undefined => {
  const { cause } = error
  if (!(cause instanceof Error) || cause.name !== "MongoBulkWriteError") return undefined
  const raw: unknown = Reflect.get(cause, "writeErrors")
  const many: ReadonlyArray<unknown> = Array.isArray(raw) ? raw : raw === undefined ? [] : [raw]
  const failures = many.flatMap((each) => {
    if (typeof each !== "object" || each === null) return []
    const index: unknown = Reflect.get(each, "index")
    const code: unknown = Reflect.get(each, "code")
    if (typeof index !== "number") return []
    const number = typeof code === "number" ? code : 0
    return [{ index, code: number, ...describe(number, Reflect.get(each, "err") ?? each) }]
  })
  const result: unknown = Reflect.get(cause, "result")
  const count = (of: string): number => {
    const value: unknown = typeof result === "object" && result !== null ? Reflect.get(result, of) : undefined
    return typeof value === "number" ? value : 0
  }
  return new BulkWriteError({
    reason: failures[0]?.reason ?? error.reason,
    connection: core.name,
    collection,
    method: error.method,
    inserted: count("insertedCount"),
    matched: count("matchedCount"),
    modified: count("modifiedCount"),
    deleted: count("deletedCount"),
    upserted: count("upsertedCount"),
    failures,
    description: failures[0]?.description ?? error.description,
    cause
  })
}
