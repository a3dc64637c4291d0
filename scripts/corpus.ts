// Decodes every recording of provider traffic in a folder and compares it with its expected result: `pnpm corpus <folder>`.
// Prints a table of the differences; ends with 1 where there are any, with 2 where there is nothing to compare.
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs"
import { basename, dirname, join, relative, resolve } from "node:path"
import { parseArgs } from "node:util"
import * as LlmTest from "@underlay/llm/LlmTest"
import { Either, ParseResult, Schema } from "effect"

const usage = `pnpm corpus <folder> [options]

Decodes every recording (*.json) below the folder and compares it with expected/<the same path> in the folder, in one
above it, or beside the recording.

  --chunk <n|random>   replays streams in chunks of n bytes, or of random sizes
  --seed <n>           which random sizes, and which random cuts (1)
  --line-end <LF|CRLF> replays streams with this line end
  --cut                also ends every stream after each event and at random bytes before its end marker
  --cuts <n>           at how many random bytes (200)
  --expected <folder>  where the expected results are
`

interface Row {
  readonly recording: string
  readonly where: string
  readonly expected: string
  readonly got: string
}

const fail = (message: string): never => {
  console.error(message)
  process.exit(2)
}

const readArguments = () => {
  try {
    return parseArgs({
      // A package manager hands its own separator on.
      args: process.argv.slice(2).filter((argument) => argument !== "--"),
      allowPositionals: true,
      options: {
        chunk: { type: "string" },
        seed: { type: "string" },
        "line-end": { type: "string" },
        cut: { type: "boolean" },
        cuts: { type: "string" },
        expected: { type: "string" },
        help: { type: "boolean" }
      }
    })
  } catch (error) {
    return fail(`${error instanceof Error ? error.message : error}\n\n${usage}`)
  }
}

const { positionals, values } = readArguments()
if (values.help === true) {
  console.log(usage)
  process.exit(0)
}

const wholeNumber = (name: string, text: string | undefined, least: number): number | undefined => {
  if (text === undefined) return undefined
  const number = Number(text)
  return Number.isSafeInteger(number) && number >= least ? number : fail(`--${name} ${text}: a whole number is wanted`)
}

const [given, ...others] = positionals
if (given === undefined || others.length > 0) fail(usage)
// A package manager runs this in its own folder and says in which one the user is.
const here = resolve(given ?? "")
const folder = existsSync(here) ? here : resolve(process.env["INIT_CWD"] ?? "", given ?? "")
if (!existsSync(folder) || !statSync(folder).isDirectory()) fail(`${folder}: there is no such folder`)

const lineEnd = values["line-end"]?.toUpperCase()
if (lineEnd !== undefined && lineEnd !== "LF" && lineEnd !== "CRLF") fail(`--line-end ${lineEnd}: LF or CRLF is wanted`)
const seed = wholeNumber("seed", values.seed, 0) ?? 1
const options: LlmTest.ReplayOptions = {
  chunkSize: values.chunk === "random" ? "random" : wholeNumber("chunk", values.chunk, 1),
  seed,
  lineEnd: lineEnd === "LF" || lineEnd === "CRLF" ? lineEnd : undefined
}

/** The files below a folder, links followed, but not in circles. */
const filesIn = (directory: string, above: ReadonlyArray<string> = []): ReadonlyArray<string> => {
  const real = realpathSync(directory)
  if (above.includes(real)) return []
  return readdirSync(directory, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(directory, entry.name)
      const isDirectory =
        entry.isDirectory() || (entry.isSymbolicLink() && existsSync(path) && statSync(path).isDirectory())
      if (isDirectory) {
        return entry.name === "expected" || entry.name === "node_modules" ? [] : filesIn(path, [...above, real])
      }
      return entry.name.endsWith(".json") ? [path] : []
    })
}

const read = (file: string): Either.Either<unknown, string> => {
  try {
    return Either.right(JSON.parse(readFileSync(file, "utf8").replace(/^\uFEFF/, "")))
  } catch (error) {
    return Either.left(error instanceof Error ? error.message : String(error))
  }
}

/** Where the expected result of a recording may be: below its own folder, one above it, or that beside the given one. */
const placesOf = (file: string): ReadonlyArray<string> => {
  if (values.expected !== undefined) return [join(resolve(values.expected), relative(folder, file))]
  const places: Array<string> = []
  const top = dirname(folder)
  for (let above = dirname(file); ; above = dirname(above)) {
    places.push(join(above, "expected", relative(above, file)))
    if (above === top || above === dirname(above)) break
  }
  places.push(join(top, "expected", relative(folder, file)))
  return places
}

const decodeRecording = Schema.decodeUnknownEither(LlmTest.Recording)

/** What is wrong with a file, by the places in it. */
const problemsOf = (error: ParseResult.ParseError): string =>
  ParseResult.ArrayFormatter.formatErrorSync(error)
    .map(({ message, path }) => `${path.join(".")}: ${message.replace(/\s+/g, " ").slice(0, 80)}`)
    .join("; ")

const shown = (value: unknown): string => (value === undefined ? "(absent)" : (JSON.stringify(value) ?? String(value)))

/** Two values as they are shown side by side: of long texts, what is round the first place in which they differ. */
const sideBySide = (a: unknown, b: unknown): readonly [string, string] => {
  const [left, right] = [shown(a), shown(b)]
  let same = 0
  while (same < left.length && same < right.length && left[same] === right[same]) same += 1
  const from = same > 24 ? same - 12 : 0
  const part = (text: string) =>
    `${from > 0 ? "…" : ""}${text.slice(from, from + 60)}${text.length > from + 60 ? "…" : ""}`
  return [part(left), part(right)]
}

const defectOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

const judge = (recording: LlmTest.Recording, file: string, row: (row: Omit<Row, "recording">) => void): void => {
  const place = placesOf(file).find(existsSync)
  const expected = place === undefined ? Either.left("there is none") : read(place)
  if (Either.isLeft(expected)) row({ where: "(expected result)", expected: "a JSON file", got: expected.left })
  const decoded = LlmTest.canonical(recording, options)
  if (Either.isLeft(decoded)) {
    row({ where: "(api)", expected: "a known one", got: decoded.left.message })
    return
  }
  if (Either.isRight(expected)) {
    for (const difference of LlmTest.differences(decoded.right, expected.right)) {
      const [left, right] = sideBySide(difference.expected, difference.actual)
      row({ where: difference.path === "" ? "(all of it)" : difference.path, expected: left, got: right })
    }
  }
  if (values.cut !== true) return
  const faults = LlmTest.cutFaults(recording, { ...options, random: wholeNumber("cuts", values.cuts, 0) })
  for (const { at, fault } of Either.getOrElse(faults, () => [])) {
    row({ where: `cut at byte ${at}`, expected: "an honest end", got: fault })
  }
}

const started = performance.now()
const rows: Array<Row> = []
let recordings = 0
let bytes = 0
let streams = 0
for (const file of filesIn(folder)) {
  const name = relative(folder, file).replace(/\.json$/, "")
  const row = (found: Omit<Row, "recording">) => rows.push({ recording: name, ...found })
  const content = read(file)
  if (Either.isLeft(content)) {
    row({ where: "(file)", expected: "JSON", got: content.left })
    continue
  }
  // Indexes and notes may lie beside the recordings.
  const { right: value } = content
  if (typeof value !== "object" || value === null || !("response" in value)) continue
  recordings += 1
  const recording = decodeRecording(value)
  if (Either.isLeft(recording)) {
    row({ where: "(file)", expected: "a recording", got: problemsOf(recording.left) })
    continue
  }
  bytes += recording.right.response.body.length
  if (recording.right.stream && recording.right.response.status < 400) streams += 1
  try {
    judge(recording.right, file, row)
  } catch (error) {
    row({ where: "(defect)", expected: "an outcome", got: defectOf(error) })
  }
}

if (recordings === 0 && rows.length === 0) fail(`${basename(folder)}: there are no recordings here`)

const header: Row = { recording: "recording", where: "where", expected: "expected", got: "got" }
const columns = ["recording", "where", "expected", "got"] as const
if (rows.length > 0) {
  const widths = columns.map((column) => Math.max(...[header, ...rows].map((row) => row[column].length)))
  for (const row of [header, ...rows]) {
    console.log(
      columns
        .map((column, index) => row[column].padEnd(widths[index] ?? 0))
        .join("  ")
        .trimEnd()
    )
    if (row === header) console.log(widths.map((width) => "-".repeat(width)).join("  "))
  }
  console.log("")
}
const wrong = new Set(rows.map((row) => row.recording)).size
const how = [
  ...(options.chunkSize === undefined ? [] : [`in chunks of ${options.chunkSize} bytes`]),
  ...(options.lineEnd === undefined ? [] : [`with ${options.lineEnd}`]),
  ...(values.cut === true ? [`${streams} streams cut`] : []),
  ...(options.chunkSize === "random" || values.cut === true ? [`seed ${seed}`] : [])
]
console.log(
  [
    `${recordings} recordings (${Math.round(bytes / 1024)} KiB)${how.length === 0 ? "" : `, ${how.join(", ")}`}`,
    rows.length === 0 ? "all as expected" : `${rows.length} differences in ${wrong} of them`,
    `${((performance.now() - started) / 1000).toFixed(1)} s`
  ].join("; ")
)
process.exitCode = rows.length === 0 ? 0 : 1
