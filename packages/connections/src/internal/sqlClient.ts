/**
 * An `SqlClient` of `@effect/sql` over sessions that we lend ourselves: transactions whose COMMIT can fail, savepoints
 * that do not mix, waiting that can be interrupted, and no span on the internal plane.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import { ConnectionError, type Plane } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { DatabaseError } from "../database/DatabaseError.ts"
import { encode } from "./params.ts"

export interface Result {
  readonly rows: ReadonlyArray<unknown>
  /** The command as the server names it when it is done: `SELECT`, `COMMIT`, `ROLLBACK`. */
  readonly command: string | undefined
  readonly raw: unknown
}

export type Params = ReadonlyArray<string | null>

/** One backend, lent to one user at a time. Statements are run one after another. */
export interface Session {
  /**
   * Runs a statement. When it is interrupted it does not wait: the session is marked, and what is run on it next waits
   * until the interrupted statement is over.
   */
  readonly run: (sql: string, params: Params, rows: "object" | "array") => Effect.Effect<Result, ConnectionError>
  /** Streams the rows of a statement with back-pressure, if the backend can. */
  readonly stream: ((sql: string, params: Params) => Stream.Stream<unknown, ConnectionError>) | undefined
  /** Whether a statement was interrupted or the connection is gone, so that it will not be lent again. */
  readonly isMarked: () => boolean
  readonly mark: () => void
}

export interface Options {
  readonly kind: string
  readonly name: string
  readonly plane: Plane
  readonly acquire: Effect.Effect<Session, ConnectionError, Scope.Scope>
  readonly attributes: ReadonlyArray<readonly [string, unknown]>
  /** How long COMMIT and ROLLBACK, which cannot be interrupted, may take. */
  readonly endTimeout: Duration.Duration
}

interface Level {
  readonly session: Session
  readonly depth: number
  /** Held by a statement while it runs and by a nested transaction for as long as it is open. */
  readonly lock: Effect.Semaphore
}

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

let clients = 0

/** Runs an effect that cannot be interrupted from outside and yet ends in time. */
const bounded = <A>(
  effect: Effect.Effect<A, ConnectionError>,
  limit: Duration.Duration,
  late: () => ConnectionError
): Effect.Effect<A, ConnectionError> =>
  Effect.uninterruptible(
    Effect.gen(function* () {
      const done = yield* Deferred.make<A, ConnectionError>()
      const work = yield* Effect.interruptible(effect).pipe(
        Effect.onExit((exit) => Deferred.done(done, exit)),
        Effect.forkDaemon
      )
      const timer = yield* Effect.sleep(limit).pipe(
        Effect.interruptible,
        Effect.zipRight(Deferred.fail(done, late())),
        Effect.zipRight(Fiber.interruptFork(work)),
        Effect.forkDaemon
      )
      return yield* Effect.ensuring(Deferred.await(done), Fiber.interruptFork(timer))
    })
  )

export const make = (options: Options): Effect.Effect<SqlClient.SqlClient, never, Reactivity.Reactivity> =>
  Effect.gen(function* () {
    // Each client has a tag of its own besides the one of @effect/sql, so that a transaction on one database never
    // catches the statements that are meant for another.
    const Own = Context.GenericTag<Level>(`@underlay/connections/Transaction/${options.kind}/${clients++}`)
    const watched = options.plane === "external"

    const failure = (reason: "InvalidRequest" | "Timeout" | "Conflict", method: string, description: string) =>
      new ConnectionError({ reason, kind: options.kind, connection: options.name, method, description })

    const encoded = (params: ReadonlyArray<unknown>): Effect.Effect<Params, ConnectionError> =>
      Effect.try({
        try: () => params.map(encode),
        catch: (cause) =>
          failure("InvalidRequest", "execute", cause instanceof Error ? cause.message : "a parameter cannot be stored")
      })

    const typed = <A>(effect: Effect.Effect<A, ConnectionError>): Effect.Effect<A, SqlError> =>
      Effect.mapError(effect, (error) => new DatabaseError(error))

    let cursors = 0

    const connection = (session: Session, level: Level | undefined): SqlConnection.Connection => {
      const run = (sql: string, params: ReadonlyArray<unknown>, rows: "object" | "array") => {
        const effect = typed(Effect.flatMap(encoded(params), (params) => session.run(sql, params, rows)))
        return level === undefined ? effect : level.lock.withPermits(1)(effect)
      }
      type Transform = Parameters<SqlConnection.Connection["execute"]>[2]
      const execute = (sql: string, params: ReadonlyArray<unknown>, transform: Transform) =>
        Effect.map(run(sql, params, "object"), ({ rows }) =>
          transform === undefined ? rows : transform(rows as ReadonlyArray<object>)
        )
      const whole = (sql: string, params: ReadonlyArray<unknown>): Stream.Stream<unknown, SqlError> =>
        Stream.unwrap(Effect.map(run(sql, params, "object"), ({ rows }) => Stream.fromIterable(rows)))
      const byCursor = (sql: string, params: ReadonlyArray<unknown>): Stream.Stream<unknown, SqlError> => {
        const cursor = `underlay_cursor_${cursors++}`
        return Stream.acquireRelease(run(`DECLARE ${cursor} NO SCROLL CURSOR FOR ${sql}`, params, "object"), () =>
          // In a transaction that failed the cursor is gone already.
          session.isMarked() ? Effect.void : Effect.ignore(run(`CLOSE ${cursor}`, [], "object"))
        ).pipe(
          Stream.flatMap(() =>
            Stream.paginateChunkEffect(undefined, () =>
              Effect.map(run(`FETCH ${fetchSize} FROM ${cursor}`, [], "object"), ({ rows }) => [
                Chunk.unsafeFromArray(rows as Array<unknown>),
                rows.length < fetchSize ? Option.none() : Option.some(undefined)
              ])
            )
          )
        )
      }
      return {
        execute,
        executeUnprepared: execute,
        executeRaw: (sql, params) => Effect.map(run(sql, params, "object"), ({ raw }) => raw),
        executeValues: (sql, params) =>
          Effect.map(run(sql, params, "array"), ({ rows }) => rows as ReadonlyArray<ReadonlyArray<unknown>>),
        executeStream: (sql, params, transform) => {
          const { stream } = session
          const rows =
            level !== undefined
              ? canHaveCursor(sql)
                ? byCursor(sql, params)
                : whole(sql, params)
              : stream === undefined
                ? whole(sql, params)
                : Stream.mapError(
                    Stream.unwrap(Effect.map(encoded(params), (params) => stream(sql, params))),
                    (error) => new DatabaseError(error)
                  )
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

    const acquire = Effect.mapError(options.acquire, (error) => new DatabaseError(error))

    const reserve: SqlConnection.Connection.Acquirer = Effect.map(acquire, (session) => connection(session, undefined))

    const acquirer: SqlConnection.Connection.Acquirer = Effect.flatMap(Effect.serviceOption(Own), (level) =>
      Option.isSome(level) ? Effect.succeed(connection(level.value.session, level.value)) : reserve
    )

    const control = (session: Session, sql: string) =>
      bounded(session.run(sql, [], "object"), options.endTimeout, () => {
        session.mark()
        return failure(
          "Timeout",
          sql,
          `no answer within ${Duration.format(options.endTimeout)}: the outcome is not known`
        )
      })

    const inside = <A, E, R>(
      effect: Effect.Effect<A, E, R>,
      level: Level,
      span: Tracer.Span | undefined
    ): Effect.Effect<A, E, R> =>
      Effect.mapInputContext(effect, (context: Context.Context<R>) => {
        const within = Context.add(Context.add(context, Own, level), SqlClient.TransactionConnection, [
          connection(level.session, level),
          level.depth
        ] as const) as Context.Context<R>
        return span === undefined ? within : (Context.add(within, Tracer.ParentSpan, span) as Context.Context<R>)
      })

    const level = (session: Session, depth: number): Effect.Effect<Level> =>
      Effect.map(Effect.makeSemaphore(1), (lock) => ({ session, depth, lock }))

    // The outermost transaction: BEGIN and COMMIT on a session of its own.
    const outermost = <A, E, R>(effect: Effect.Effect<A, E, R>, span: Tracer.Span | undefined) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const body = Effect.gen(function* () {
            const session = yield* restore(Scope.extend(acquire, scope))
            yield* typed(restore(session.run("BEGIN", [], "object")))
            const exit = yield* Effect.exit(restore(inside(effect, yield* level(session, 0), span)))
            if (Exit.isSuccess(exit)) {
              const { command } = yield* typed(
                Effect.tapError(control(session, "COMMIT"), () => Effect.sync(session.mark))
              )
              if (command !== "ROLLBACK") return exit.value
              // The server says so by the command only: a statement failed, and its error was not passed on.
              return yield* new DatabaseError(
                failure("InvalidRequest", "COMMIT", "a statement of the transaction had failed, so all was rolled back")
              )
            }
            // A session whose statement was interrupted is thrown away, and the server rolls back by itself.
            if (!session.isMarked()) {
              yield* Effect.catchAll(control(session, "ROLLBACK"), () => Effect.sync(session.mark))
            }
            return yield* exit
          })
          return yield* Effect.onExit(body, (exit) => Scope.close(scope, exit))
        })
      )

    // A transaction in a transaction: a savepoint. Its neighbours wait until it is over.
    const nested = <A, E, R>(effect: Effect.Effect<A, E, R>, outer: Level, span: Tracer.Span | undefined) =>
      outer.lock.withPermits(1)(
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function* () {
            const { session } = outer
            const savepoint = `underlay_${outer.depth + 1}`
            const back = `ROLLBACK TO SAVEPOINT ${savepoint}`
            yield* typed(restore(session.run(`SAVEPOINT ${savepoint}`, [], "object")))
            const exit = yield* Effect.exit(restore(inside(effect, yield* level(session, outer.depth + 1), span)))
            if (Exit.isFailure(exit)) {
              yield* Effect.catchAll(control(session, back), () => Effect.sync(session.mark))
              return yield* exit
            }
            return yield* control(session, `RELEASE SAVEPOINT ${savepoint}`).pipe(
              Effect.as(exit.value),
              Effect.catchAll((error) =>
                Effect.zipRight(
                  Effect.catchAll(control(session, back), () => Effect.sync(session.mark)),
                  new DatabaseError(error)
                )
              )
            )
          })
        )
      )

    const withTransaction = <R, E, A>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> => {
      const open = (span: Tracer.Span | undefined): Effect.Effect<A, E | SqlError, R> =>
        Effect.flatMap(
          Effect.serviceOption(Own),
          (outer): Effect.Effect<A, E | SqlError, R> =>
            Option.isSome(outer) ? nested(effect, outer.value, span) : outermost(effect, span)
        )
      return watched
        ? Effect.useSpan("sql.transaction", { kind: "client", captureStackTrace: false }, (span) => {
            for (const [key, value] of options.attributes) span.attribute(key, value)
            return open(span)
          })
        : open(undefined)
    }

    const reactivity = yield* Reactivity.Reactivity
    const statements = Statement.make(acquirer, compiler, options.attributes, undefined)
    // There are no transformations of names, so the client without them is the client itself; so is the safe one.
    const rest: Omit<SqlClient.SqlClient, keyof Statement.Constructor | "safe"> = {
      [SqlClient.TypeId]: SqlClient.TypeId as SqlClient.TypeId,
      withoutTransforms: () => client,
      reserve,
      withTransaction,
      reactive: reactivity.stream,
      reactiveMailbox: reactivity.query
    }
    const client = Object.assign(watched ? statements : quiet(statements, acquirer), rest) as SqlClient.SqlClient
    Object.defineProperty(client, "safe", { value: client })
    return client
  })

const off = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.withTracerEnabled(effect, false)

// A statement makes its span when it is run, whatever its connection does. On the internal plane it is run with the
// tracer off; nothing of the caller's own effects is inside.
const quietly = <S>(statement: S, acquirer: SqlConnection.Connection.Acquirer): S => {
  if (
    typeof statement !== "object" ||
    statement === null ||
    !("commit" in statement) ||
    !Statement.isFragment(statement)
  ) {
    return statement
  }
  const inner = statement as unknown as Statement.Statement<unknown> & { commit(): Effect.Effect<unknown, SqlError> }
  const prototype = Object.getPrototypeOf(inner)
  const read = (name: string): unknown => Reflect.get(prototype, name, inner)
  const commit = inner.commit.bind(inner)
  const untraced = {
    commit: { value: () => off(commit()) },
    raw: { get: () => off(read("raw") as Effect.Effect<unknown, SqlError>) },
    values: { get: () => off(read("values") as Effect.Effect<unknown, SqlError>) },
    unprepared: { get: () => off(read("unprepared") as Effect.Effect<unknown, SqlError>) },
    withoutTransform: { get: () => off(read("withoutTransform") as Effect.Effect<unknown, SqlError>) },
    // What consumes a stream runs within it, so this one must not turn the tracer off.
    stream: {
      get: () =>
        Stream.unwrapScoped(
          Effect.map(acquirer, (connection) => {
            const [sql, params] = inner.compile()
            return connection.executeStream(sql, params, undefined)
          })
        )
    }
  } satisfies PropertyDescriptorMap
  for (const [name, descriptor] of Object.entries(untraced)) Reflect.defineProperty(inner, name, descriptor)
  return statement
}

const quiet = (
  statements: Statement.Constructor,
  acquirer: SqlConnection.Connection.Acquirer
): Statement.Constructor => {
  const call = statements as unknown as (...args: ReadonlyArray<unknown>) => unknown
  return Object.assign((...args: ReadonlyArray<unknown>) => quietly(call(...args), acquirer), statements, {
    unsafe: (sql: string, params?: ReadonlyArray<unknown>) => quietly(statements.unsafe(sql, params), acquirer)
  }) as unknown as Statement.Constructor
}
