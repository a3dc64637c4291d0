/**
 * The engine in this process as a session. When its code traps, the driver goes on as if nothing had happened and answers
 * whatever is left: here that is noticed, and nothing reaches the engine any more.
 */
import type * as Driver from "@electric-sql/pglite"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import { load } from "../driver.ts"
import { type Outcome, outside, type Request, type Session } from "../sql/session.ts"
import { toConnectionError } from "../sql/sqlState.ts"

export interface At {
  readonly kind: string
  readonly name: string
}

export interface Engine {
  readonly database: Driver.PGlite
  /** Marked by a COMMIT or ROLLBACK that failed: rolled back before it is lent again. */
  doubtful: boolean
  /** What its code threw. It is not asked any more, since nothing in its memory can be relied upon. */
  crash: { readonly cause: unknown } | undefined
  /** Who is told of a crash. */
  readonly onCrash: Set<() => void>
}

export const version = "0.5.14"

// How the engine's code says that a statement failed, by its exit status; keep in step with the driver.
const longJump = 100

const crash = (engine: Engine, cause: unknown): void => {
  engine.crash = { cause }
  for (const listener of engine.onCrash) listener()
}

export const crashed = (at: At, cause: unknown, sent?: false): ConnectionError =>
  new ConnectionError({
    ...(sent === undefined ? {} : { sent }),
    reason: "Closed",
    kind: at.kind,
    connection: at.name,
    method: "execute",
    description:
      "the engine crashed, so that what ran then may or may not be stored and nothing can be asked any more: " +
      "make the connection anew; what was in memory only is gone",
    cause
  })

interface Main {
  _PostgresMainLoopOnce: () => void
  stackRestore: (pointer: number) => void
}

const isMain = (module: object): module is Main =>
  "_PostgresMainLoopOnce" in module &&
  typeof module._PostgresMainLoopOnce === "function" &&
  "stackRestore" in module &&
  typeof module.stackRestore === "function"

/** Notices what the engine's code throws, and makes the driver throw it too. */
const watch = (engine: Engine): void => {
  const module: object = engine.database.Module
  if (!isMain(module)) return
  const once = module._PostgresMainLoopOnce
  module._PostgresMainLoopOnce = () => {
    try {
      once()
    } catch (error) {
      if (!(typeof error === "object" && error !== null && "status" in error && error.status === longJump)) {
        crash(engine, error)
        // The driver swallows what comes out of the loop, but not what comes out of this.
        module.stackRestore = () => {
          throw error
        }
      }
      throw error
    }
  }
}

export const start = (
  at: At,
  settings: { readonly dataDir?: string | undefined; readonly vector?: boolean | undefined }
): Effect.Effect<Engine, ConnectionError> =>
  Effect.gen(function* () {
    const { PGlite } = yield* load(at, "@electric-sql/pglite", version, () => import("@electric-sql/pglite"))
    // The parsers of `pg`, so that a row has the same values whichever database it comes from.
    const { types } = yield* load(at, "pg", "8", () => import("pg").then((module) => module.default))
    const extensions =
      settings.vector === false
        ? {}
        : yield* Effect.map(
            load(at, "@electric-sql/pglite-pgvector", "0.0.15", () => import("@electric-sql/pglite-pgvector")),
            ({ vector }) => ({ vector })
          )
    const { dataDir } = settings
    const database = yield* Effect.tryPromise({
      try: () => PGlite.create({ ...(dataDir === undefined ? {} : { dataDir }), extensions }),
      catch: (cause) => toConnectionError({ ...at, method: "start" }, cause)
    })
    // Parameters come as PostgreSQL's text already.
    database.serializers = {}
    const parsers: Record<number, (value: string) => unknown> = {}
    for (const oid of [...Object.keys(database.parsers), ...Object.values(types.builtins)].map(Number)) {
      parsers[oid] = types.getTypeParser(oid, "text")
    }
    database.parsers = parsers
    const engine: Engine = { database, doubtful: false, crash: undefined, onCrash: new Set() }
    watch(engine)
    return engine
  }).pipe(Effect.uninterruptible)

const isBlank = (sql: string): boolean => sql.replace(/--[^\n]*|\/\*[\s\S]*?\*\/|[;\s]+/g, "") === ""

export const sessionOf = (at: At, engine: Engine): Session => {
  const { database } = engine
  const ask = async ({ params, rows, sql }: Request): Promise<Outcome> => {
    const options = { rowMode: rows }
    const result =
      params.length > 0
        ? await database.query<unknown>(sql, [...params], options)
        : await database.exec(sql, options).then((results) => results[results.length - 1])
    if (engine.crash !== undefined) return crashed(at, engine.crash.cause)
    // Each statement that has run says which it was.
    if (result?.command === undefined && !isBlank(sql)) {
      const cause = new Error("the engine gave no answer")
      crash(engine, cause)
      return crashed(at, cause)
    }
    return { rows: result?.rows ?? [], command: result?.command, raw: result }
  }
  const failed = (thrown: unknown): ConnectionError => {
    if (engine.crash !== undefined) return crashed(at, engine.crash.cause)
    // It puts the parameters on its errors, where a log would show them.
    if (typeof thrown === "object" && thrown !== null) Reflect.deleteProperty(thrown, "params")
    return toConnectionError({ ...at, method: "execute" }, thrown)
  }
  return {
    submit: (request, done) => {
      if (engine.crash !== undefined) {
        done(crashed(at, engine.crash.cause, false))
        return () => {}
      }
      if (request.within === true && !database.isInTransaction()) {
        done(outside(at, "execute"))
        return () => {}
      }
      const begun = request.begin === undefined ? Promise.resolve() : database.exec(request.begin).then(() => {})
      void begun.then(() => ask(request)).then(done, (thrown: unknown) => done(failed(thrown)))
      return () => {}
    },
    // It has run by the time that anybody could interrupt it, and the engine is not free before it says so.
    cancellable: false,
    stream: undefined,
    isMarked: () => engine.doubtful,
    mark: () => {
      engine.doubtful = true
    },
    isAlive: () => engine.crash === undefined && !database.closed
  }
}
