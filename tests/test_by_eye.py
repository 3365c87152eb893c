"""Two runs, looked at in batch."""
import json

import nbformat
import papermill

from moosa.places import experiments_folder
from moosa.results.report import publish_notebook


def test_two_runs_are_looked_at_in_batch(two_runs, tmp_path):
    run = next(folder for folder in (two_runs/"runs").iterdir()
               if json.loads((folder/"record.json").read_text())["spec"]["target"] == "mfeat")
    seen = dict(run=str(run), other=str(run), data_dir=str(two_runs), seen="An eight is **no** three.")
    papermill.execute_notebook(experiments_folder()/"by_eye.ipynb", tmp_path/"out.ipynb", seen, progress_bar=False,
                               kernel_name="python3", cwd=tmp_path)
    publish_notebook(tmp_path/"out.ipynb", tmp_path/"page.ipynb")
    given = [cell for cell in nbformat.read(tmp_path/"page.ipynb", 4).cells if cell.metadata.get("tags")]
    assert len(given) == 2 and all(cell.metadata["jupyter"]["source_hidden"] for cell in given)
    outputs = [output.get("data", {}) for cell in nbformat.read(tmp_path/"out.ipynb", 4).cells
               for output in cell.get("outputs", [])]
    said = "\n".join(data.get("text/markdown", "") for data in outputs)
    assert "An eight is **no** three." in said and "target mfeat" in said
    numbers = json.loads((run/"record.json").read_text())["results"]["source-quantile"]
    assert f"{100*numbers['HOS']:.1f}" in said and f"{100*numbers['UNK']:.1f}" in said
    assert sum("image/png" in data for data in outputs) >= 4
