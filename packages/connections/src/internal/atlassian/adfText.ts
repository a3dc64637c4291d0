/**
 * The Atlassian Document Format: its shape, and plain text as a document. It loads nothing.
 */

export interface AdfNode {
  readonly type: string
  readonly attrs?: Readonly<Record<string, unknown>>
  readonly content?: ReadonlyArray<AdfNode>
  readonly marks?: ReadonlyArray<AdfMark>
  readonly text?: string
}

export interface AdfMark {
  readonly type: string
  readonly attrs?: Readonly<Record<string, unknown>>
}

export interface AdfDocument {
  readonly version: 1
  readonly type: "doc"
  readonly content: ReadonlyArray<AdfNode>
}

export const node = (
  type: string,
  content?: ReadonlyArray<AdfNode>,
  attrs?: Readonly<Record<string, unknown>>
): AdfNode => ({
  type,
  ...(attrs === undefined ? {} : { attrs }),
  ...(content === undefined ? {} : { content })
})

/** Paragraphs of plain text: a blank line ends one, a line end is a break. */
export const fromText = (text: string): AdfDocument => {
  const content = text
    .replace(/\r\n?/g, "\n")
    .split(/\n[ \t]*\n/)
    .map((part) => part.replace(/^\n+|\n+$/g, ""))
    .filter((part) => part !== "")
    .map((part) =>
      node(
        "paragraph",
        part
          .split("\n")
          .flatMap(
            (line, at): ReadonlyArray<AdfNode> => [
              ...(at === 0 ? [] : [node("hardBreak")]),
              ...(line === "" ? [] : [{ type: "text", text: line }])
            ]
          )
      )
    )
  return { version: 1, type: "doc", content: content.length === 0 ? [node("paragraph", [])] : content }
}
