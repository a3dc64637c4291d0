/** The recordings of the shared data, and their expected decoding. */

import * as Fs from "node:fs"
import * as Path from "node:path"
import * as LlmTest from "@underlay/llm/LlmTest"
import * as Need from "@underlay/servers/Need"
import { Schema } from "effect"

export interface Case {
  readonly name: string
  readonly recording: LlmTest.Recording
  readonly expected: LlmTest.Canonical
}

const folder = Path.join(Need.sharedData, "llm-corpus")

const read = (file: string): unknown => JSON.parse(Fs.readFileSync(Path.join(folder, file), "utf8"))

const list = (): ReadonlyArray<{ readonly file: string; readonly api: string }> =>
  Need.missing("llm-corpus")
    ? []
    : (read("index.json") as ReadonlyArray<{ readonly file: string; readonly api: string }>)

/** Every recording of a protocol; without one, of all of them. */
export const casesOf = (api?: string): ReadonlyArray<Case> =>
  list()
    .filter((entry) => api === undefined || entry.api === api)
    .map(({ file }) => ({
      name: file.replace(/\.json$/, ""),
      recording: Schema.decodeUnknownSync(LlmTest.Recording)(read(file)),
      expected: read(Path.join("expected", file)) as LlmTest.Canonical
    }))
