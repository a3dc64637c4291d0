/**
 * What is given to `pg` to be run: statements, streams of rows and COPY, each as the driver's "submittable", which is
 * told of the server's messages one by one. They are without events and promises, and build each row once.
 */
import type { Request, Result } from "../sql/session.ts"
import { encode } from "./messages.ts"

/** What `pg` has of a connection and its types leave out. */
export interface Wire {
  readonly stream: {
    readonly writable: boolean
    readonly write: (bytes: Buffer) => unknown
    readonly pause: () => void
    readonly resume: () => void
    readonly writableNeedDrain?: boolean
    readonly once: (event: "drain", listener: () => void) => void
    readonly off: (event: "drain", listener: () => void) => void
  }
  readonly query: (text: string) => void
  readonly sendCopyFromChunk: (chunk: Uint8Array) => void
  readonly endCopyFrom: () => void
  readonly sendCopyFail: (message: string) => void
}

/** A column, as the server describes it. */
export interface Field {
  readonly name: string
  readonly dataTypeID: number
  readonly format: "text" | "binary"
}

export type Parse = (value: string) => unknown

/** The driver's parsers of values. */
export interface Types {
  readonly getTypeParser: (oid: number, format: "text") => Parse
}

/** The name under which a session prepares a statement, and what it closes to make room for it. */
export interface Prepared {
  readonly name: string
  readonly parsed: boolean
  readonly evicted: string | undefined
  /**
   * Its columns, where this session knows them. The server never runs a prepared statement whose columns have changed:
   * it says "cached plan must not change result type". A pooler in between may have prepared it anew elsewhere.
   */
  readonly fields: ReadonlyArray<Field> | undefined
}

interface RowDescription {
  readonly fields: ReadonlyArray<Field>
}

interface DataRow {
  readonly fields: ReadonlyArray<string | null>
}

interface RawResult {
  command: string | undefined
  rowCount: number | null
  rows: Array<unknown>
  fields: ReadonlyArray<Field>
}

const extended = ({ stream }: Wire, request: Request, prepared: Prepared | undefined): void => {
  stream.write(
    encode({
      begin: request.begin,
      close: prepared?.evicted,
      name: prepared === undefined ? "" : prepared.name,
      text: prepared?.parsed === true ? undefined : request.sql,
      values: request.params,
      describe: prepared?.fields === undefined
    })
  )
}

interface Shape {
  readonly names: ReadonlyArray<string>
  /** A row without values. Rows that are copies of one object have one hidden class, which is what makes them cheap. */
  readonly template: Readonly<Record<string, unknown>>
}

const shapes = new Map<string, Shape>()

const shapeOf = (fields: ReadonlyArray<Field>): Shape => {
  const names = fields.map(({ name }) => name)
  const key = names.join("\0")
  const known = shapes.get(key)
  if (known !== undefined) return known
  const template: Record<string, unknown> = {}
  for (const name of names) {
    // Also a column may be named __proto__.
    Object.defineProperty(template, name, { value: null, enumerable: true, configurable: true, writable: true })
  }
  const shape: Shape = { names, template: { ...template } }
  if (shapes.size >= 1_000) shapes.clear()
  shapes.set(key, shape)
  return shape
}

/** What `pg` calls. `failed` is told of the first error, be it the server's or the connection's. */
abstract class Query {
  readonly request: Request
  readonly prepared: Prepared | undefined
  readonly types: Types
  readonly failed: (error: unknown) => void
  protected parsers: Array<Parse> = []
  protected names: ReadonlyArray<string> = []
  protected template: Readonly<Record<string, unknown>> = {}

  constructor(request: Request, prepared: Prepared | undefined, types: Types, failed: (error: unknown) => void) {
    this.request = request
    this.prepared = prepared
    this.types = types
    this.failed = failed
  }

  submit(wire: Wire): undefined {
    const { begin, params, sql } = this.request
    if (params.length === 0 && this.prepared === undefined) wire.query(begin === undefined ? sql : `${begin};${sql}`)
    else extended(wire, this.request, this.prepared)
    return undefined
  }

  protected describe(fields: ReadonlyArray<Field>): void {
    this.parsers = fields.map(({ dataTypeID }) => this.types.getTypeParser(dataTypeID, "text"))
    const shape = shapeOf(fields)
    this.names = shape.names
    this.template = shape.template
  }

  protected read({ fields }: DataRow): unknown {
    return this.request.rows === "array" ? this.list(fields) : this.record(fields)
  }

  private list(fields: DataRow["fields"]): ReadonlyArray<unknown> {
    const { parsers } = this
    const count = parsers.length
    const row = new Array<unknown>(count)
    for (let index = 0; index < count; index++) {
      const value = fields[index] as string | null
      row[index] = value === null ? null : (parsers[index] as Parse)(value)
    }
    return row
  }

  private record(fields: DataRow["fields"]): Record<string, unknown> {
    const { names, parsers } = this
    const count = parsers.length
    const row = { ...this.template }
    for (let index = 0; index < count; index++) {
      const value = fields[index] as string | null
      if (value !== null) row[names[index] as string] = (parsers[index] as Parse)(value)
    }
    return row
  }

  handleError(error: unknown): void {
    this.failed(error)
  }

  handleReadyForQuery(): void {}
  handlePortalSuspended(): void {}
  handleEmptyQuery(): void {}
  handleCopyData(_message: { readonly chunk: Buffer }): void {}

  handleCopyInResponse(wire: Wire): void {
    wire.sendCopyFail("the rows of COPY come by copyIn")
  }
}

const commandOf = (text: string): readonly [string, number | null] => {
  const [, command = "", first, second] = /^([A-Za-z]+)(?: (\d+))?(?: (\d+))?/.exec(text) ?? []
  const count = second ?? first
  return [command, count === undefined ? null : Number(count)]
}

/** The server counts from the beginning of what was sent. */
const moveBack = (error: unknown, characters: number): void => {
  if (typeof error !== "object" || error === null || !("position" in error)) return
  if (typeof error.position !== "string") return
  const position = Number(error.position) - characters
  error.position = position > 0 ? String(position) : undefined
}

const empty = (): RawResult => ({ command: undefined, rowCount: null, rows: [], fields: [] })

/** The rows have other columns than the server told when the statement was prepared. */
export class OtherColumns extends Error {}

/** What is known of the columns serves the next run too: who asks for it gets one of their own. */
const shown = (result: RawResult): RawResult => ({ ...result, fields: result.fields.map((field) => ({ ...field })) })

class Outcome implements Result {
  readonly rows: ReadonlyArray<unknown>
  readonly command: string | undefined
  private readonly last: RawResult
  private readonly earlier: ReadonlyArray<RawResult> | undefined

  constructor(last: RawResult, earlier: ReadonlyArray<RawResult> | undefined) {
    this.rows = last.rows
    this.command = last.command
    this.last = last
    this.earlier = earlier
  }

  get raw(): unknown {
    return this.earlier === undefined ? shown(this.last) : [...this.earlier, this.last].map(shown)
  }
}

/** A statement whose rows are wanted at once. Several in one text give several results; the last is the result. */
export class StatementQuery extends Query {
  private current: RawResult = empty()
  private earlier: Array<RawResult> | undefined
  private begun: boolean
  private broken: unknown

  constructor(request: Request, prepared: Prepared | undefined, types: Types, failed: (error: unknown) => void) {
    super(request, prepared, types, failed)
    this.begun = request.begin === undefined
    if (prepared?.fields !== undefined) {
      this.current.fields = prepared.fields
      this.describe(prepared.fields)
    }
  }

  private next(): void {
    if (this.current.command === undefined) return
    if (this.earlier === undefined) this.earlier = []
    this.earlier.push(this.current)
    this.current = empty()
  }

  handleRowDescription(message: RowDescription): void {
    this.next()
    this.current.fields = message.fields
    this.describe(message.fields)
  }

  handleDataRow(message: DataRow): void {
    if (this.broken !== undefined) return
    try {
      if (message.fields.length !== this.parsers.length) throw new OtherColumns()
      this.current.rows.push(this.read(message))
    } catch (error) {
      // A parser that the program has set may throw. What else comes has to be read all the same.
      this.broken = error ?? new Error("a parser failed")
      this.failed(this.broken)
    }
  }

  override handleError(error: unknown): void {
    const { begin, lead = 0, params } = this.request
    const together = begin !== undefined && params.length === 0 && this.prepared === undefined
    const before = lead + (together ? begin.length + 1 : 0)
    if (before > 0) moveBack(error, before)
    super.handleError(error)
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    if (!this.begun) {
      this.begun = true
      return
    }
    this.next()
    const [command, rowCount] = commandOf(text)
    this.current.command = command
    this.current.rowCount = rowCount
  }

  /** The columns of what was run last. */
  get fields(): ReadonlyArray<Field> {
    return this.current.fields
  }

  get result(): Result {
    return new Outcome(this.current, this.earlier)
  }
}

/** A statement whose rows are read as they come, in the order in which they come. */
export class RowsQuery extends Query {
  readonly row: (row: unknown) => void

  constructor(request: Request, types: Types, failed: (error: unknown) => void, row: (row: unknown) => void) {
    super(request, undefined, types, failed)
    this.row = row
  }

  handleRowDescription(message: RowDescription): void {
    this.describe(message.fields)
  }

  handleDataRow(message: DataRow): void {
    try {
      this.row(this.read(message))
    } catch (error) {
      this.failed(error)
    }
  }

  handleCommandComplete(): void {}
}

/** COPY in both directions. */
export class CopyQuery extends Query {
  private readonly into: (wire: Wire) => void
  private readonly out: (chunk: Buffer) => void
  rows = 0

  constructor(
    request: Request,
    types: Types,
    failed: (error: unknown) => void,
    into: (wire: Wire) => void,
    out: (chunk: Buffer) => void
  ) {
    super(request, undefined, types, failed)
    this.into = into
    this.out = out
  }

  handleRowDescription(): void {}
  handleDataRow(): void {}

  override handleCopyInResponse(wire: Wire): void {
    this.into(wire)
  }

  override handleCopyData({ chunk }: { readonly chunk: Buffer }): void {
    this.out(chunk)
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    this.rows = commandOf(text)[1] ?? 0
  }
}
