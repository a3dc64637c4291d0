/**
 * An `SqlClient` of `@effect/sql` over sessions that we lend ourselves: transactions whose COMMIT can fail, savepoints
 * that do not mix, waiting that can be interrupted; every statement watched on the external plane, nothing shown on the
 * internal one.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import { ConnectionError } from "@underlay/core/connection/Connection"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Deadline from "@underlay/core/resilience/Deadline"
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
import { operationOf, queryText } from "./queryText.ts"
import { fromPolicy } from "./watch.ts"

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
  /** What watches the statements, on the external plane. It has to make a single attempt and set no limit of its own. */
  readonly watch: ExternalClient.ExternalClient | undefined
  readonly acquire: Effect.Effect<Session, ConnectionError, Scope.Scope>
  readonly attributes: ReadonlyArray<readonly [string, unknown]>
  /** How long a statement may wait for a nested transaction beside it. */
  readonly acquireTimeout: Duration.Duration
  /** Whether the data outlives the process. */
  readonly persistent: boolean
  /** How long COMMIT and ROLLBACK, which cannot be interrupted, may take. */
  readonly endTimeout: Duration.Duration
}

/** A transaction, or one nested in it. */
interface Level {
  readonly session: Session
  readonly depth: number
  readonly outer: Level | undefined
  /** Who has the session now: a statement while it runs, a nested transaction for as long as it is open. */
  holder: Holder | undefined
  readonly waiters: Array<Waiter>
  /** It has ended. What still runs in it must not reach the session, which may be lent to somebody else by now. */
  over: boolean
}

type Holder = "statement" | "transaction"

interface Waiter {
  readonly as: Holder
  granted: boolean
  resume: () => void
}

const isOver = (level: Level | undefined): boolean => level !== undefined && (level.over || isOver(level.outer))

const free = (level: Level): void => {
  const next = level.waiters.shift()
  level.holder = next?.as
  if (next === undefined) return
  next.granted = true
  next.resume()
}

const inMemory = new WeakSet<object>()

/** Whether what is stored through this client outlives the process; true of clients that we did not make. */
export const isPersistent = (client: SqlClient.SqlClient): boolean => !inMemory.has(client)

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
const bounded = <A, E>(effect: Effect.Effect<A, E>, limit: Duration.Duration, late: () => E): Effect.Effect<A, E> =>
  Effect.uninterruptible(
    Effect.gen(function* () {
      const done = yield* Deferred.make<A, E>()
      // A fiber that fails would be logged by the runtime.
      const work = yield* Effect.interruptible(effect).pipe(
        Effect.exit,
        Effect.flatMap((exit) => Deferred.done(done, exit)),
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
    const { watch } = options

    const failure = (reason: "InvalidRequest" | "Timeout" | "Closed", method: string, description: string) =>
      new ConnectionError({ reason, kind: options.kind, connection: options.name, method, description })

    /**
     * Runs `effect` as the only one of its level, in the order of asking; or, to end the level, before all who wait.
     */
    const alone = <A, E, R>(
      level: Level,
      as: Holder | "end",
      effect: Effect.Effect<A, E, R>
    ): Effect.Effect<A, E | SqlError, R> =>
      Effect.uninterruptibleMask((restore) => {
        const wait = Effect.suspend((): Effect.Effect<void, SqlError> => {
          const holder = as === "end" ? "statement" : as
          if (level.holder === undefined) {
            level.holder = holder
            return Effect.void
          }
          const waiter: Waiter = { as: holder, granted: false, resume: () => {} }
          if (as === "end") level.waiters.unshift(waiter)
          else level.waiters.push(waiter)
          const turn = Effect.async<void>((resume) => {
            if (waiter.granted) return resume(Effect.void)
            waiter.resume = () => resume(Effect.void)
          })
          const patiently: Effect.Effect<void, SqlError> = Effect.flatMap(
            Effect.timeoutOption(turn, options.acquireTimeout),
            (done) =>
              Option.isSome(done)
                ? Effect.void
                : level.holder === "transaction"
                  ? new DatabaseError(
                      failure(
                        "Timeout",
                        "execute",
                        `a nested transaction beside it did not end within ${Duration.format(options.acquireTimeout)}: ` +
                          "what is inside one must not wait for a statement of the transaction round it"
                      )
                    )
                  : patiently
          )
          return Effect.onExit(restore(patiently), (exit) =>
            Exit.isSuccess(exit)
              ? Effect.void
              : Effect.sync(() => {
                  const at = level.waiters.indexOf(waiter)
                  if (at >= 0) level.waiters.splice(at, 1)
                  if (waiter.granted) free(level)
                })
          )
        })
        const work = Effect.suspend(
          (): Effect.Effect<A, E | SqlError, R> =>
            as !== "end" && isOver(level)
              ? new DatabaseError(failure("Closed", "execute", "the transaction that it belongs to has ended"))
              : effect
        )
        return Effect.zipRight(
          wait,
          Effect.ensuring(
            restore(work),
            Effect.sync(() => free(level))
          )
        )
      })

    const encoded = (params: ReadonlyArray<unknown>): Effect.Effect<Params, ConnectionError> =>
      params.length > 65_535
        ? failure(
            "InvalidRequest",
            "execute",
            `${params.length} parameters, and PostgreSQL takes 65,535: pass arrays and unnest them, or do it in parts`
          )
        : Effect.try({
            try: () => params.map(encode),
            catch: (cause) =>
              failure(
                "InvalidRequest",
                "execute",
                cause instanceof Error ? cause.message : "a parameter cannot be stored"
              )
          })

    const typed = <A>(effect: Effect.Effect<A, ConnectionError>): Effect.Effect<A, SqlError> =>
      Effect.mapError(effect, (error) => new DatabaseError(error))

    let cursors = 0

    const connection = (session: Session, level: Level | undefined): SqlConnection.Connection => {
      const run = (sql: string, params: ReadonlyArray<unknown>, rows: "object" | "array") => {
        const effect = typed(Effect.flatMap(encoded(params), (params) => session.run(sql, params, rows)))
        return level === undefined ? effect : alone(level, "statement", effect)
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
        // In a transaction that failed the cursor is gone already.
        const close = Effect.suspend(() =>
          session.isMarked() ? Effect.void : Effect.ignore(run(`CLOSE ${cursor}`, [], "object"))
        )
        // To CLOSE what was not declared would fail the transaction.
        const declared = Effect.uninterruptibleMask((restore) =>
          Effect.zipRight(
            restore(run(`DECLARE ${cursor} NO SCROLL CURSOR FOR ${sql}`, params, "object")),
            Effect.addFinalizer(() => close)
          )
        )
        return Stream.scoped(declared).pipe(
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

    /** Ends a level. A statement of it that is still under way comes first, and nothing comes after. */
    const control = (level: Level, sql: string): Effect.Effect<Result, SqlError> =>
      Effect.suspend(() => {
        level.over = true
        const now = typed(level.session.run(sql, [], "object"))
        return bounded(level.holder === "statement" ? alone(level, "end", now) : now, options.endTimeout, () => {
          level.session.mark()
          return new DatabaseError(
            failure("Timeout", sql, `no answer within ${Duration.format(options.endTimeout)}: the outcome is not known`)
          )
        })
      })

    // Whoever forks a nested transaction has to join it.
    const leftOpen = (level: Level): boolean => level.holder === "transaction"

    const unfinished = Effect.suspend(
      () =>
        new DatabaseError(
          failure(
            "InvalidRequest",
            "COMMIT",
            "a nested transaction was still open at the end of the one round it, so all was rolled back: join its fiber"
          )
        )
    )

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

    const level = (session: Session, outer: Level | undefined): Level => ({
      session,
      outer,
      depth: outer === undefined ? 0 : outer.depth + 1,
      holder: undefined,
      waiters: [],
      over: false
    })

    const attributes = Object.fromEntries(options.attributes)

    // What the watching client adds to the errors of a statement, as an error of the database.
    const outside = (operation: string, error: ExternalClient.ExternalError | SqlError): SqlError =>
      error._tag === "SqlError" ? error : new DatabaseError(fromPolicy(options, operation, error))

    const runner = watch === undefined ? quiet : watching(watch, attributes, outside)

    /** BEGIN and COMMIT have limits of their own: a deadline that leaves them half done would help nobody. */
    const observed = <A>(sql: string, effect: Effect.Effect<A, SqlError>, span: Tracer.Span | undefined) =>
      span === undefined
        ? effect
        : runner
            .effect(sql, effect)
            .pipe(Effect.provideService(Deadline.Current, Number.POSITIVE_INFINITY), Effect.withParentSpan(span))

    // The outermost transaction: BEGIN and COMMIT on a session of its own.
    const outermost = <A, E, R>(effect: Effect.Effect<A, E, R>, span: Tracer.Span | undefined) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const body = Effect.gen(function* () {
            const begun = Effect.tap(Scope.extend(acquire, scope), (session) =>
              typed(session.run("BEGIN", [], "object"))
            )
            const session = yield* restore(observed("BEGIN", begun, span))
            const own = level(session, undefined)
            const exit = yield* Effect.exit(restore(inside(effect, own, span)))
            if (Exit.isSuccess(exit) && !leftOpen(own)) {
              const commit = Effect.tapError(control(own, "COMMIT"), () => Effect.sync(session.mark))
              const { command } = yield* observed("COMMIT", commit, span)
              if (command !== "ROLLBACK") return exit.value
              // The server says so by the command only: a statement failed, and its error was not passed on.
              return yield* new DatabaseError(
                failure("InvalidRequest", "COMMIT", "a statement of the transaction had failed, so all was rolled back")
              )
            }
            own.over = true
            // A session whose statement was interrupted is thrown away, and the server rolls back by itself.
            if (!session.isMarked()) {
              yield* Effect.catchAll(control(own, "ROLLBACK"), () => Effect.sync(session.mark))
            }
            return yield* Exit.isSuccess(exit) ? unfinished : exit
          })
          return yield* Effect.onExit(body, (exit) => Scope.close(scope, exit))
        })
      )

    // A transaction in a transaction: a savepoint. Its neighbours wait until it is over.
    const nested = <A, E, R>(effect: Effect.Effect<A, E, R>, outer: Level, span: Tracer.Span | undefined) => {
      const body = Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const { session } = outer
          const savepoint = `underlay_${outer.depth + 1}`
          const own = level(session, outer)
          const undo = Effect.suspend(() => {
            own.over = true
            return isOver(outer)
              ? Effect.void
              : Effect.asVoid(
                  Effect.catchAll(control(own, `ROLLBACK TO SAVEPOINT ${savepoint}`), () => Effect.sync(session.mark))
                )
          })
          yield* typed(restore(session.run(`SAVEPOINT ${savepoint}`, [], "object")))
          const exit = yield* Effect.exit(restore(inside(effect, own, span)))
          if (Exit.isFailure(exit) || leftOpen(own)) {
            yield* undo
            return yield* Exit.isSuccess(exit) ? unfinished : exit
          }
          if (isOver(outer)) {
            own.over = true
            return yield* new DatabaseError(
              failure("Closed", "COMMIT", "the transaction round it has ended, and with it this one")
            )
          }
          return yield* control(own, `RELEASE SAVEPOINT ${savepoint}`).pipe(
            Effect.as(exit.value),
            Effect.catchAll((error) => Effect.zipRight(undo, error))
          )
        })
      )
      return alone(outer, "transaction", body)
    }

    const withTransaction = <R, E, A>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> => {
      const open = (span: Tracer.Span | undefined): Effect.Effect<A, E | SqlError, R> =>
        Effect.flatMap(
          Effect.serviceOption(Own),
          (outer): Effect.Effect<A, E | SqlError, R> =>
            Option.isSome(outer) ? nested(effect, outer.value, span) : outermost(effect, span)
        )
      return watch === undefined
        ? open(undefined)
        : Effect.useSpan("sql.transaction", { captureStackTrace: false, attributes }, open)
    }

    const reactivity = yield* Reactivity.Reactivity
    const statements = Statement.make(acquirer, compiler, [], undefined)
    // There are no transformations of names, so the client without them is the client itself; so is the safe one.
    const rest: Omit<SqlClient.SqlClient, keyof Statement.Constructor | "safe"> = {
      [SqlClient.TypeId]: SqlClient.TypeId as SqlClient.TypeId,
      withoutTransforms: () => client,
      reserve,
      withTransaction,
      reactive: reactivity.stream,
      reactiveMailbox: reactivity.query
    }
    const client = Object.assign(own(statements, acquirer, runner), rest) as SqlClient.SqlClient
    Object.defineProperty(client, "safe", { value: client })
    if (!options.persistent) inMemory.add(client)
    return client
  })

const off = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.withTracerEnabled(effect, false)

/** How statements and streams of rows are run. */
interface Runner {
  readonly effect: <A, R>(sql: string, effect: Effect.Effect<A, SqlError, R>) => Effect.Effect<A, SqlError, R>
  readonly stream: <A>(sql: string, stream: Stream.Stream<A, SqlError>) => Stream.Stream<A, SqlError>
}

/** Nothing is shown. */
const quiet: Runner = { effect: (_, effect) => off(effect), stream: (_, stream) => stream }

/** One client span a statement, one log line, metrics. */
const watching = (
  client: ExternalClient.ExternalClient,
  attributes: Readonly<Record<string, unknown>>,
  outside: (operation: string, error: ExternalClient.ExternalError | SqlError) => SqlError
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
        return Effect.mapError(client.call(operation, Effect.tapError(off(effect), withCode), options), (error) =>
          outside(operation, error)
        )
      }),
    stream: (sql, stream) =>
      Stream.suspend(() => {
        const { operation, options } = about(sql)
        return Stream.mapError(client.stream(operation, Stream.tapError(stream, withCode), options), (error) =>
          outside(operation, error)
        )
      })
  }
}

// A statement of @effect/sql makes a span when it is run, whatever its connection does. It is run with the tracer off,
// by a runner of ours; nothing of the caller's own effects is inside.
const owned = <S>(statement: S, acquirer: SqlConnection.Connection.Acquirer, runner: Runner): S => {
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
  const commit = inner.commit.bind(inner)
  const text = (): string => inner.compile()[0]
  const run = <A>(effect: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    Effect.suspend(() => runner.effect(text(), effect))
  const read = (name: string) => ({
    get: () => run(Reflect.get(prototype, name, inner) as Effect.Effect<unknown, SqlError>)
  })
  const properties = {
    commit: { value: () => run(commit()) },
    raw: read("raw"),
    values: read("values"),
    unprepared: read("unprepared"),
    withoutTransform: read("withoutTransform"),
    // What consumes a stream runs within it, so this one must not turn the tracer off.
    stream: {
      get: () =>
        Stream.suspend(() => {
          const [sql, params] = inner.compile()
          return runner.stream(
            sql,
            Stream.unwrapScoped(Effect.map(acquirer, (connection) => connection.executeStream(sql, params, undefined)))
          )
        })
    }
  } satisfies PropertyDescriptorMap
  for (const [name, descriptor] of Object.entries(properties)) Reflect.defineProperty(inner, name, descriptor)
  return statement
}

const own = (
  statements: Statement.Constructor,
  acquirer: SqlConnection.Connection.Acquirer,
  runner: Runner
): Statement.Constructor => {
  const call = statements as unknown as (...args: ReadonlyArray<unknown>) => unknown
  return Object.assign((...args: ReadonlyArray<unknown>) => owned(call(...args), acquirer, runner), statements, {
    unsafe: (sql: string, params?: ReadonlyArray<unknown>) => owned(statements.unsafe(sql, params), acquirer, runner)
  }) as unknown as Statement.Constructor
}
