/**
 * Rows as the bytes of COPY, and back: its text format, and CSV. A row is an array with a value for each column; what is
 * read are texts as PostgreSQL writes them, and null.
 *
 * @since 0.1.0
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { encode, Unstorable } from "../internal/sql/params.ts"
import { DatabaseError } from "./DatabaseError.ts"

const failure = (description: string) =>
  new DatabaseError(
    new ConnectionError({
      reason: "InvalidRequest",
      kind: "postgres",
      connection: "copy",
      method: "copy",
      description,
      sent: false
    })
  )

const escapes: Readonly<Record<string, string>> = {
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\b": "\\b",
  "\f": "\\f",
  "\v": "\\v"
}

const textRow = (row: ReadonlyArray<unknown>): string => {
  let line = ""
  for (let index = 0; index < row.length; index++) {
    const value = encode(row[index])
    if (index > 0) line += "\t"
    line += value === null ? "\\N" : value.replace(/[\\\n\r\t\b\f\v]/g, (character) => escapes[character] ?? character)
  }
  return `${line}\n`
}

const csvRow = (row: ReadonlyArray<unknown>): string => {
  let line = ""
  for (let index = 0; index < row.length; index++) {
    const value = encode(row[index])
    if (index > 0) line += ","
    // An empty text is quoted, since what is empty without quotes is NULL; and so is the end of data of older servers.
    if (value !== null) line += value === "" || /[",\n\r\\]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value
  }
  return `${line}\n`
}

const size = 1 << 16

const encoding =
  (write: (row: ReadonlyArray<unknown>) => string) =>
  <E, R>(rows: Stream.Stream<ReadonlyArray<unknown>, E, R>): Stream.Stream<Uint8Array, E | DatabaseError, R> =>
    Stream.mapChunksEffect(rows, (chunk) =>
      Effect.try({
        try: () => {
          // Many short rows become few pieces, and one piece is never much longer than a row.
          const pieces: Array<Uint8Array> = []
          let text = ""
          for (const row of chunk) {
            text += write(row)
            if (text.length >= size) {
              pieces.push(Buffer.from(text))
              text = ""
            }
          }
          if (text !== "") pieces.push(Buffer.from(text))
          return Chunk.unsafeFromArray(pieces)
        },
        catch: (cause) =>
          // What the program throws may hold the value.
          failure(`a row cannot be stored: ${cause instanceof Unstorable ? cause.message : "a value cannot be read"}`)
      })
    )

/**
 * Rows for `COPY ... FROM STDIN`. Values are written as parameters of statements are: null and undefined are NULL, a
 * plain object is JSON, an array an array of PostgreSQL. Fails with `InvalidRequest` for what cannot be stored.
 *
 * @since 0.1.0
 * @category combinators
 */
export const toText: <E, R>(
  rows: Stream.Stream<ReadonlyArray<unknown>, E, R>
) => Stream.Stream<Uint8Array, E | DatabaseError, R> = encoding(textRow)

/**
 * Rows for `COPY ... FROM STDIN (format csv)`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const toCsv: <E, R>(
  rows: Stream.Stream<ReadonlyArray<unknown>, E, R>
) => Stream.Stream<Uint8Array, E | DatabaseError, R> = encoding(csvRow)

type Row = ReadonlyArray<string | null>

const unescapes: Readonly<Record<string, string>> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" }

const textLine = (line: string): Row =>
  line
    .split("\t")
    .map((field) =>
      field === "\\N"
        ? null
        : field.replace(/\\(?:x([0-9a-f]{1,2})|([0-7]{1,3})|([\s\S]))/gi, (_, hex, octal, character: string) =>
            hex === undefined
              ? octal === undefined
                ? (unescapes[character] ?? character)
                : String.fromCharCode(Number.parseInt(octal, 8))
              : String.fromCharCode(Number.parseInt(hex, 16))
          )
    )

interface Reader {
  readonly read: (text: string) => Array<Row>
  readonly end: () => Array<Row> | undefined
}

const textReader = (): Reader => {
  let rest = ""
  return {
    read: (text) => {
      const lines = (rest + text).split("\n")
      rest = lines.pop() ?? ""
      return lines.map(textLine)
    },
    end: () => (rest === "" ? [] : [textLine(rest)])
  }
}

const csvReader = (): Reader => {
  let rows: Array<Row> = []
  let row: Array<string | null> = []
  let field = ""
  let state: "start" | "plain" | "quoted" | "closing" = "start"
  let quoted = false
  const endField = (): void => {
    row.push(field === "" && !quoted ? null : field)
    field = ""
    quoted = false
    state = "start"
  }
  const endRow = (): void => {
    endField()
    rows.push(row)
    row = []
  }
  const step = (character: string): void => {
    if (state === "quoted") {
      if (character === '"') state = "closing"
      else field += character
    } else if (state === "closing" && character === '"') {
      field += character
      state = "quoted"
    } else if (character === ",") endField()
    else if (character === "\n") endRow()
    else if (character === '"' && state === "start") {
      quoted = true
      state = "quoted"
    } else {
      field += character
      state = "plain"
    }
  }
  return {
    read: (text) => {
      rows = []
      for (let index = 0; index < text.length; index++) step(text[index] ?? "")
      return rows
    },
    end: () => {
      rows = []
      if (state === "quoted") return undefined
      if (field !== "" || quoted || row.length > 0) endRow()
      return rows
    }
  }
}

const decoding =
  (make: () => Reader) =>
  <E, R>(bytes: Stream.Stream<Uint8Array, E, R>): Stream.Stream<Row, E | DatabaseError, R> =>
    Stream.suspend(() => {
      const reader = make()
      // A character may lie in two pieces.
      const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
      const body = Stream.mapChunks(bytes, (chunk) =>
        Chunk.unsafeFromArray(
          Chunk.toReadonlyArray(chunk).flatMap((piece) => reader.read(decoder.decode(piece, { stream: true })))
        )
      )
      const last = Stream.suspend(() => {
        const before = reader.read(decoder.decode())
        const rows = reader.end()
        return rows === undefined
          ? Stream.fail(failure("the CSV ends within quotes"))
          : Stream.fromIterable([...before, ...rows])
      })
      return Stream.concat(body, last)
    })

/**
 * The rows of `COPY ... TO STDOUT`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const fromText: <E, R>(
  bytes: Stream.Stream<Uint8Array, E, R>
) => Stream.Stream<ReadonlyArray<string | null>, E | DatabaseError, R> = decoding(textReader)

/**
 * The rows of `COPY ... TO STDOUT (format csv)`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const fromCsv: <E, R>(
  bytes: Stream.Stream<Uint8Array, E, R>
) => Stream.Stream<ReadonlyArray<string | null>, E | DatabaseError, R> = decoding(csvReader)
