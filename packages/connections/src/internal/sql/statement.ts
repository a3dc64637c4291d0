/**
 * The statements of `@effect/sql`, run by our own hand: without a span, a scope and a fiber of their own. Where all that
 * is between the texts of a template are plain values, the text is put together once.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import type * as Fiber from "effect/Fiber"
import { identity } from "effect/Function"
import * as Stream from "effect/Stream"
import type { Result } from "./session.ts"

/** How a compiled statement is run. */
export interface Execution {
  readonly run: (
    fiber: Fiber.RuntimeFiber<unknown, unknown>,
    sql: string,
    params: ReadonlyArray<unknown>,
    rows: "object" | "array"
  ) => Effect.Effect<Result, SqlError>
  readonly stream: (sql: string, params: ReadonlyArray<unknown>) => Stream.Stream<unknown, SqlError>
  /** As `@effect/sql` makes them, to be taken apart. */
  readonly plain: Statement.Constructor
  readonly compiler: Statement.Compiler
  readonly self: () => Statement.Constructor
}

const texts = new WeakMap<TemplateStringsArray, string>()

const textOf = (strings: TemplateStringsArray): string => {
  const known = texts.get(strings)
  if (known !== undefined) return known
  const text = strings.reduce((before, part, index) => `${before}$${index}${part}`)
  texts.set(strings, text)
  return text
}

const isPlain = (value: unknown): boolean =>
  typeof value !== "object"
    ? typeof value !== "function"
    : value === null || value instanceof Date || Array.isArray(value) || ArrayBuffer.isView(value)

class Query<A> extends Effectable.Class<ReadonlyArray<A>, SqlError> implements Statement.Statement<A> {
  readonly execution: Execution
  private readonly source: Source

  constructor(execution: Execution, source: Source) {
    super()
    this.execution = execution
    this.source = source
  }

  get [Statement.FragmentId]() {
    return identity
  }

  get segments(): ReadonlyArray<Statement.Segment> {
    return this.source._tag === "Template" ? this.inner().segments : this.source.statement.segments
  }

  private inner(): Statement.Statement<object> {
    return this.source._tag === "Template"
      ? this.execution.plain(this.source.strings, ...this.source.values)
      : this.source.statement
  }

  compile(withoutTransform?: boolean | undefined): readonly [sql: string, params: ReadonlyArray<unknown>] {
    return this.source._tag === "Template"
      ? [textOf(this.source.strings), this.source.values]
      : this.execution.compiler.compile(this.source.statement, withoutTransform ?? false)
  }

  private perform(rows: "object" | "array"): Effect.Effect<Result, SqlError> {
    return Effect.withFiberRuntime((fiber) => {
      const transformer = fiber.getFiberRef(Statement.currentTransformer)
      if (transformer._tag === "None") {
        const [sql, params] = this.compile()
        return this.execution.run(fiber, sql, params, rows)
      }
      return Effect.flatMap(noSpan, (span) =>
        Effect.flatMap(transformer.value(this, this.execution.self(), fiber.getFiberRefs(), span), (statement) => {
          const [sql, params] = statement.compile()
          return this.execution.run(fiber, sql, params, rows)
        })
      )
    })
  }

  override commit(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    // What is in the rows is what the caller says of them, as everywhere in @effect/sql.
    return Effect.map(this.perform("object"), ({ rows }) => rows as ReadonlyArray<A>)
  }

  get withoutTransform(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    return this.commit()
  }

  get unprepared(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    return this.commit()
  }

  get raw(): Effect.Effect<unknown, SqlError> {
    return Effect.map(this.perform("object"), ({ raw }) => raw)
  }

  get values(): Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, SqlError> {
    return Effect.map(this.perform("array"), ({ rows }) => rows as ReadonlyArray<ReadonlyArray<unknown>>)
  }

  get stream(): Stream.Stream<A, SqlError> {
    return Stream.suspend(() => {
      const [sql, params] = this.compile()
      return this.execution.stream(sql, params) as Stream.Stream<A, SqlError>
    })
  }

  toJSON() {
    const [sql] = this.compile()
    return { _id: "@effect/sql/Statement", sql }
  }
}

type Source =
  | { readonly _tag: "Template"; readonly strings: TemplateStringsArray; readonly values: ReadonlyArray<unknown> }
  | { readonly _tag: "Statement"; readonly statement: Statement.Statement<object> }

const noSpan = Effect.withTracerEnabled(Effect.makeSpan("sql.execute", { captureStackTrace: false }), false)

const isTemplate = (value: unknown): value is TemplateStringsArray => Array.isArray(value) && "raw" in value

/** The constructor of statements that `run`. */
export const constructor = (execution: Execution): Statement.Constructor => {
  const { plain } = execution
  const call = (first: TemplateStringsArray | string, ...values: ReadonlyArray<unknown>) => {
    if (!isTemplate(first)) return plain(first)
    return new Query<object>(
      execution,
      values.every(isPlain)
        ? { _tag: "Template", strings: first, values }
        : { _tag: "Statement", statement: plain(first, ...values) }
    )
  }
  return Object.assign(call, plain, {
    unsafe: <A extends object>(sql: string, params?: ReadonlyArray<unknown>) =>
      new Query<A>(execution, { _tag: "Statement", statement: plain.unsafe<A>(sql, params) })
  }) as unknown as Statement.Constructor
}
