"""Examples that the help of each command ends with."""

EXAMPLES = {
    "demo": """\
skyloom demo
skyloom demo -o try --seed 2""",
    "inspect": """\
skyloom inspect frames/
skyloom inspect night1/ night2/ --json""",
    "link": """\
skyloom link raw/
skyloom link raw/ --diagram links.svg
skyloom link raw/ --set link.temperature_tolerance=4""",
    "plan": """\
skyloom plan lrgb raw/ --memory 8GiB
skyloom plan stack frames/ -o project --graph plan.svg
skyloom plan mosaic frames/ --json""",
    "run": """\
skyloom run lrgb raw/ -o project
skyloom run stack frames/ -o project --set integrate.low=5 --set register.pixel_scale=1.5
skyloom run stack night1/ night2/ -o project --solution keep
skyloom run raw raw/ -o project --until calibrate""",
    "status": """\
skyloom status project
skyloom status project night1/ night2/
skyloom status project --json""",
    "pixel": """\
skyloom pixel project 210 131
skyloom pixel project --radec "00:42:44 +41:16:09" --band L --json""",
    "report": """\
skyloom report project""",
    "export": """\
skyloom export project integrate deep.xisf --band L
skyloom export project integrate depth.fits --band L --variable count
skyloom export project stretch picture.png --depth 16""",
    "hips": """\
skyloom hips project integrate sky/ --band L
skyloom hips project stretch picture-sky/""",
    "simulate": """\
skyloom simulate frames --panels 2x2 --frames 4
skyloom simulate raw --raw --bands L,R,G,B --faults""",
    "view": """\
skyloom view project""",
    "workflows": """\
skyloom workflows
skyloom workflows raw > mine.yaml
skyloom workflows --json""",
    "ops": """\
skyloom ops
skyloom ops integrate
skyloom ops integrate --json""",
    "completion": """\
source <(skyloom completion bash)
skyloom completion zsh > ~/.zfunc/_skyloom
skyloom completion fish > ~/.config/fish/completions/skyloom.fish""",
}


def epilog(command: str) -> str | None:
    """The end of a command's help; None where there is no example."""
    if command not in EXAMPLES:
        return None
    return "examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[command].splitlines())
