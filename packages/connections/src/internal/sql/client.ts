/**
 * An `SqlClient` of `@effect/sql` over sessions that we lend ourselves: every statement watched on the external plane,
 * nothing shown on the internal one.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import { ConnectionError } from "@underlay/core/connection/Connection"
import { policyError } from "@underlay/core/connection/ConnectionLifecycle"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { DatabaseError } from "../../database/DatabaseError.ts"
import * as Level from "./level.ts"
import { encode, Unstorable } from "./params.ts"
import type { Lease, Pool } from "./pool.ts"
import * as Runner from "./runner.ts"
import { type Outcome, type Params, type Request, type Result, run, type Session, told } from "./session.ts"
import * as Own from "./statement.ts"
import * as Transaction from "./transaction.ts"

export interface Options<S extends Session> {
  readonly kind: string
  readonly name: string
  /** What watches the statements, on the external plane. It has to make a single attempt and set no limit of its own. */
  readonly watch: ExternalClient.ExternalClient | undefined
  readonly acquire: Effect.Effect<S, ConnectionError, Scope.Scope>
  /** Where statements outside transactions may get their sessions without detours: for sessions that can cancel. */
  readonly pool: Pick<Pool<S>, "request"> | undefined
  readonly attributes: ReadonlyArray<readonly [string, unknown]>
  /** How long a statement may wait for a nested transaction beside it. */
  readonly acquireTimeout: Duration.Duration
  /** Whether the data outlives the process. */
  readonly persistent: boolean
  /** How long COMMIT and ROLLBACK, which cannot be interrupted, may take. */
  readonly endTimeout: Duration.Duration
  /** Whether a statement can be ended when its time is over. */
  readonly timeouts: boolean
  /** Its sessions only read, and a transaction cannot ask for more. */
  readonly readOnly: boolean
}

/** A session that is borrowed. */
export interface Borrowed<out S extends Session> {
  readonly session: S
  /** It is that of a transaction. */
  readonly within: boolean
  /** The error of what it was borrowed for. */
  readonly failed: (error: ConnectionError) => DatabaseError
}

/** What a client of ours can do besides. */
export interface Extras<out S extends Session = Session> {
  readonly sql: SqlClient.SqlClient
  readonly transaction: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: Transaction.TransactionOptions
  ) => Effect.Effect<A, E | SqlError, R>
  /** Whether this fiber is inside a transaction of this client. */
  readonly inTransaction: Effect.Effect<boolean>
  /** The session of the transaction that this fiber is in, begun, or one of its own; for as long as a scope is open. */
  readonly borrow: Effect.Effect<Borrowed<S>, SqlError, Scope.Scope>
  readonly runner: Runner.Runner
}

const known = new WeakMap<object, Extras>()

/** What we know of a client; undefined of clients that we did not make. */
export const extrasOf = (client: SqlClient.SqlClient): Extras | undefined => known.get(client)

const inMemory = new WeakSet<object>()

/** Whether what is stored through this client outlives the process; true of clients that we did not make. */
export const isPersistent = (client: SqlClient.SqlClient): boolean => !inMemory.has(client)

/**
 * How long a statement may take, in this fiber and its children.
 */
export class StatementTimeout extends Context.Reference<StatementTimeout>()("@underlay/connections/StatementTimeout", {
  defaultValue: (): number | undefined => undefined
}) {}

const escape = Statement.defaultEscape('"')

const compiler = Statement.makeCompiler({
  dialect: "pg",
  placeholder: (index) => `$${index}`,
  onIdentifier: (value) => escape(value),
  onRecordUpdate: (placeholders, alias, columns, values, returning) => [
    `(values ${placeholders}) AS ${alias}${columns}${returning ? ` RETURNING ${returning[0]}` : ""}`,
    returning ? values.flat().concat(returning[1]) : values.flat()
  ],
  onCustom: () => ["", []]
})

// A cursor can be declared for these, and only inside a transaction.
const canHaveCursor = (sql: string): boolean =>
  /^\s*(select|values|table)\b/i.test(sql) ||
  (/^\s*with\b/i.test(sql) && !/\b(insert|update|delete|merge)\b/i.test(sql))

const fetchSize = 128

const noParams: Params = []

// Of a longer message (2^30 bytes with all that is round it) the server reads nothing: it ends the connection.
const maxBytes = 1_000_000_000

const isTooLarge = (sql: string, params: Params): boolean => {
  let units = sql.length
  for (const value of params) if (value !== null) units += value.length
  // At most three bytes each.
  if (units * 3 <= maxBytes) return false
  let bytes = Buffer.byteLength(sql)
  for (const value of params) if (value !== null) bytes += Buffer.byteLength(value)
  return bytes > maxBytes
}

export const make = <S extends Session>(options: Options<S>): Effect.Effect<Extras<S>, never, Reactivity.Reactivity> =>
  Effect.gen(function* () {
    // Each client has its own, so that a transaction on one database never catches the statements meant for another.
    const own = Level.makeOwn<S>()
    const { pool, watch } = options
    const attributes = Object.fromEntries(options.attributes)

    const failure = (reason: "InvalidRequest" | "Unsupported" | "Closed", method: string, description: string) =>
      new ConnectionError({
        reason,
        kind: options.kind,
        connection: options.name,
        method,
        description,
        sent: false
      })

    const runner =
      watch === undefined
        ? Runner.quiet
        : Runner.watching(
            watch,
            attributes,
            (operation, error) => new DatabaseError(policyError(options, operation, error))
          )

    const encoded = (params: ReadonlyArray<unknown>): Params | ConnectionError => {
      if (params.length === 0) return noParams
      if (params.length > 65_535) {
        return failure(
          "InvalidRequest",
          "execute",
          `${params.length} parameters, and PostgreSQL takes 65,535: pass arrays and unnest them, or do it in parts`
        )
      }
      try {
        return params.map(encode)
      } catch (cause) {
        return failure(
          "InvalidRequest",
          "execute",
          cause instanceof Unstorable ? cause.message : "a parameter cannot be read"
        )
      }
    }

    /** What is asked, with the limits that hold in this fiber. */
    const requestOf = (
      fiber: Fiber.RuntimeFiber<unknown, unknown>,
      sql: string,
      params: ReadonlyArray<unknown>,
      rows: "object" | "array"
    ): Request | ConnectionError => {
      const values = encoded(params)
      if (values instanceof ConnectionError) return values
      if (isTooLarge(sql, values)) {
        return failure(
          "InvalidRequest",
          "execute",
          "the statement and its parameters have more than 1 GB, which PostgreSQL does not take: do it in parts"
        )
      }
      const timeout = Context.get(fiber.getFiberRef(FiberRef.currentContext), StatementTimeout)
      if (timeout === undefined) return { sql, params: values, rows }
      return options.timeouts
        ? { sql, params: values, rows, timeout }
        : failure("Unsupported", "execute", "a statement of this database cannot be ended when its time is over")
    }

    const acquire = Effect.mapError(options.acquire, (error) => new DatabaseError(error))

    const outcomeOf = (outcome: Outcome): Effect.Effect<Result, SqlError> =>
      outcome instanceof ConnectionError ? new DatabaseError(outcome) : Effect.succeed(outcome)

    // One callback and no scope: this is the way of most statements.
    const direct = (pool: Pick<Pool<S>, "request">, request: Request): Effect.Effect<Result, SqlError> =>
      told((tell) => {
        let lease: Lease<S> | undefined
        let cancel: (() => void) | undefined
        const withdraw = pool.request((granted) => {
          if (granted instanceof ConnectionError) return tell(outcomeOf(granted))
          lease = granted
          cancel = granted.resource.submit(request, (outcome) => {
            granted.release()
            tell(outcomeOf(outcome))
          })
        })
        return () => {
          cancel?.()
          if (lease === undefined) withdraw()
          else lease.release()
        }
      })

    const perform = (
      fiber: Fiber.RuntimeFiber<unknown, unknown>,
      sql: string,
      params: ReadonlyArray<unknown>,
      rows: "object" | "array"
    ): Effect.Effect<Result, SqlError> => {
      const request = requestOf(fiber, sql, params, rows)
      if (request instanceof ConnectionError) return new DatabaseError(request)
      const level = fiber.getFiberRef(own)
      if (level !== undefined) return Level.execute(options, level, request)
      return pool === undefined
        ? Effect.scoped(
            Effect.flatMap(acquire, (session) =>
              Effect.mapError(run(session, request), (error) => new DatabaseError(error))
            )
          )
        : direct(pool, request)
    }

    let cursors = 0

    /** Streams within a scope that begins with the first pull and is the only one. */
    const flow = (
      lent: Effect.Effect<
        { readonly session: Session; readonly level: Level.Level<Session> | undefined },
        SqlError,
        Scope.Scope
      >,
      sql: string,
      params: ReadonlyArray<unknown>
    ): Stream.Stream<unknown, SqlError> =>
      Stream.unwrapScoped(
        Effect.withFiberRuntime<Stream.Stream<unknown, SqlError>, SqlError, Scope.Scope>((fiber) => {
          const request = requestOf(fiber, sql, params, "object")
          if (request instanceof ConnectionError) return new DatabaseError(request)
          return Effect.flatMap(
            lent,
            ({ level, session }): Effect.Effect<Stream.Stream<unknown, SqlError>, SqlError, Scope.Scope> => {
              const ask = (request: Request) =>
                level === undefined
                  ? Effect.mapError(run(session, request), (error) => new DatabaseError(error))
                  : Level.execute(options, level, request)
              if (level === undefined && session.stream !== undefined) {
                return Effect.map(
                  Effect.mapError(session.stream(request), (error) => new DatabaseError(error)),
                  (pull) =>
                    Stream.repeatEffectChunkOption(
                      Effect.mapError(pull, (end) => Option.map(end, (error) => new DatabaseError(error)))
                    )
                )
              }
              if (level === undefined || !canHaveCursor(sql)) {
                return Effect.map(ask(request), ({ rows }) => Stream.fromIterable(rows))
              }
              const cursor = `underlay_cursor_${cursors++}`
              const declare = `DECLARE ${cursor} NO SCROLL CURSOR FOR `
              // In a transaction that failed the cursor is gone already.
              const close = Effect.suspend(() =>
                session.isMarked()
                  ? Effect.void
                  : Effect.ignore(ask({ sql: `CLOSE ${cursor}`, params: noParams, rows: "object" }))
              )
              // To CLOSE what was not declared would fail the transaction.
              const declared = Effect.uninterruptibleMask((restore) =>
                Effect.zipRight(
                  restore(ask({ ...request, sql: `${declare}${sql}`, lead: declare.length })),
                  Effect.addFinalizer(() => close)
                )
              )
              return Effect.as(
                declared,
                Stream.paginateChunkEffect(undefined, () =>
                  Effect.map(
                    ask({ ...request, sql: `FETCH ${fetchSize} FROM ${cursor}`, params: noParams }),
                    ({ rows }) => [
                      Chunk.unsafeFromArray(rows as Array<unknown>),
                      rows.length < fetchSize ? Option.none<undefined>() : Option.some(undefined)
                    ]
                  )
                )
              )
            }
          )
        })
      )

    /** The connection of a transaction, or one that is reserved, as `@effect/sql` wants it. */
    const connection = (session: Session, level: Level.Level<Session> | undefined): SqlConnection.Connection => {
      const ask = (sql: string, params: ReadonlyArray<unknown>, rows: "object" | "array") =>
        Effect.withFiberRuntime<Result, SqlError>((fiber) => {
          const request = requestOf(fiber, sql, params, rows)
          if (request instanceof ConnectionError) return new DatabaseError(request)
          return level === undefined
            ? Effect.mapError(run(session, request), (error) => new DatabaseError(error))
            : Level.execute(options, level, request)
        })
      type Transform = Parameters<SqlConnection.Connection["execute"]>[2]
      const execute = (sql: string, params: ReadonlyArray<unknown>, transform: Transform) =>
        Effect.map(ask(sql, params, "object"), ({ rows }) =>
          transform === undefined ? rows : transform(rows as ReadonlyArray<object>)
        )
      return {
        execute,
        executeUnprepared: execute,
        executeRaw: (sql, params) => Effect.map(ask(sql, params, "object"), ({ raw }) => raw),
        executeValues: (sql, params) =>
          Effect.map(ask(sql, params, "array"), ({ rows }) => rows as ReadonlyArray<ReadonlyArray<unknown>>),
        executeStream: (sql, params, transform) => {
          const rows = flow(Effect.succeed({ session, level }), sql, params)
          return transform === undefined
            ? rows
            : Stream.mapChunks(rows, (chunk) =>
                Chunk.unsafeFromArray(
                  transform(Chunk.toReadonlyArray(chunk) as ReadonlyArray<object>) as Array<unknown>
                )
              )
        }
      }
    }

    const reserve: SqlConnection.Connection.Acquirer = Effect.map(acquire, (session) => connection(session, undefined))

    const acquirer: SqlConnection.Connection.Acquirer = Effect.flatMap(FiberRef.get(own), (level) =>
      level === undefined ? reserve : Effect.succeed(connection(level.session, level))
    )

    const transaction = Transaction.make({
      kind: options.kind,
      name: options.name,
      acquireTimeout: options.acquireTimeout,
      endTimeout: options.endTimeout,
      own,
      acquire,
      pool,
      connection: (level) => connection(level.session, level),
      runner,
      watched: watch !== undefined,
      readOnly: options.readOnly,
      attributes
    })

    const lent = Effect.flatMap(
      FiberRef.get(own),
      (
        level
      ): Effect.Effect<
        { readonly session: Session; readonly level: Level.Level<Session> | undefined },
        SqlError,
        Scope.Scope
      > =>
        level === undefined
          ? Effect.map(acquire, (session) => ({ session, level: undefined }))
          : Effect.succeed({ session: level.session, level })
    )

    const reactivity = yield* Reactivity.Reactivity
    const statements = Own.constructor({
      run:
        watch === undefined
          ? perform
          : (_, sql, params, rows) =>
              runner.effect(
                sql,
                Effect.withFiberRuntime((fiber) => perform(fiber, sql, params, rows))
              ),
      stream: (sql, params) => runner.stream(sql, flow(lent, sql, params)),
      plain: Statement.make(acquirer, compiler, [], undefined),
      compiler,
      self: () => client
    })
    // There are no transformations of names, so the client without them is the client itself; so is the safe one.
    const rest: Omit<SqlClient.SqlClient, keyof Statement.Constructor | "safe"> = {
      [SqlClient.TypeId]: SqlClient.TypeId as SqlClient.TypeId,
      withoutTransforms: () => client,
      reserve,
      withTransaction: (effect) => transaction(effect),
      reactive: reactivity.stream,
      reactiveMailbox: reactivity.query
    }
    const client = Object.assign(statements, rest) as SqlClient.SqlClient
    Object.defineProperty(client, "safe", { value: client })
    if (!options.persistent) inMemory.add(client)

    const extras: Extras<S> = {
      sql: client,
      transaction,
      inTransaction: Effect.map(FiberRef.get(own), (level) => level !== undefined && !Level.isOver(level)),
      borrow: Effect.flatMap(FiberRef.get(own), (level): Effect.Effect<Borrowed<S>, SqlError, Scope.Scope> => {
        if (level === undefined) {
          const failed = (error: ConnectionError) => new DatabaseError(error)
          return Effect.map(acquire, (session) => ({ session, within: false, failed }))
        }
        const failed = (error: ConnectionError) => Level.failed(level, error)
        const begun = Effect.zipRight(Level.hold(options, level), Level.opened(options, level))
        return Effect.as(begun, { session: level.session, within: true, failed })
      }),
      runner
    }
    known.set(client, extras)
    return extras
  })
