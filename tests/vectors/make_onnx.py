"""Writes onnx/: small models as scikit-learn and Keras export them, and what these tools themselves answer.

    pip install scikit-learn==1.9.1 skl2onnx==1.20.0     and in another environment
    pip install tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0
    python tests/vectors/make_onnx.py scikit-learn       and in the other     python tests/vectors/make_onnx.py keras

The digits are scikit-learn's own (Alpaydin and Kaynak, CC BY 4.0); Keras learns numbers that mean nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent / "onnx"
Images = npt.NDArray[np.float32]


def images_of(shape: tuple[int, int, int], count: int = 4) -> Images:
    """Images [count, channels, height, width] in [0, 1] that everybody can make again."""
    places = np.arange(count * int(np.prod(shape)), dtype=np.int64)
    return ((places * 37 + places // 11 * 53) % 101 / 100).astype(np.float32).reshape(count, *shape)


def rows_of(images: Images) -> Images:
    """As NumPy flattens a picture: line by line, the colours of a pixel side by side."""
    return images.transpose(0, 2, 3, 1).reshape(len(images), -1)


def scikit_learn() -> None:
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_selection import SelectKBest
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, Normalizer, RobustScaler, StandardScaler
    from sklearn.svm import SVC, LinearSVC

    digits, labels = load_digits(n_class=3, return_X_y=True)
    pixels, names = (digits / 16).astype(np.float32), np.array(["none", "mild", "severe"])[labels]
    colours = rows_of(images_of((3, 5, 5), 40))
    grades = np.arange(40) % 7 / 7.0
    mlp = {"hidden_layer_sizes": (8,), "max_iter": 60, "random_state": 0}
    two = labels % 2
    models = {
        "logistic": (LogisticRegression(), pixels, labels),
        "logistic_names": (make_pipeline(StandardScaler(), LogisticRegression()), pixels, names),
        "logistic_two": (LogisticRegression(), pixels, two),
        "mlp": (make_pipeline(StandardScaler(), MLPClassifier(**mlp)), pixels, names),
        "mlp_two": (MLPClassifier(activation="tanh", **mlp), pixels, two),
        "pca": (make_pipeline(MinMaxScaler(clip=True), PCA(5, whiten=True), LogisticRegression()), pixels, labels),
        "select": (make_pipeline(SelectKBest(k=20), RobustScaler(), LogisticRegression()), pixels, labels),
        "svc": (LinearSVC(), pixels, labels),
        "ridge_colours": (make_pipeline(StandardScaler(), Ridge()), colours, grades),
        "refused_forest": (RandomForestClassifier(2, max_depth=2, random_state=0), pixels, labels),
        "refused_norm": (make_pipeline(Normalizer(), LogisticRegression()), pixels, labels),
        "refused_kernel": (SVC(), pixels[:9, :4], labels[:9] > 0),
    }
    answers = {name: _of_scikit_learn(f"sklearn_{name}", *parts) for name, parts in models.items()}
    _save("sklearn", answers)


def _of_scikit_learn(name: str, model: Any, rows: Images, labels: Any) -> Any:
    from skl2onnx import to_onnx

    model.fit(rows, labels)
    newest = {"": 17, "ai.onnx.ml": 3}
    (FOLDER / f"{name}.onnx").write_bytes(to_onnx(model, rows[:1], target_opset=newest).SerializeToString())
    shape = (3, 5, 5) if rows.shape[1] == 75 else (1, 8, 8)
    if "refused" in name:
        return None
    way = next(way for way in ("predict_proba", "decision_function", "predict") if hasattr(model, way))
    return getattr(model, way)(rows_of(images_of(shape))).tolist()


def keras() -> None:
    import keras
    from keras import layers as L

    def mobile() -> Any:
        """Channels last, same padding, batch norm, ReLU6, depthwise, flattened in its own order."""
        image = L.Input((12, 12, 3))
        x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)))
        x = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
        return keras.Model(image, L.Dense(3, activation="softmax")(L.Flatten()(L.AveragePooling2D(2)(x))))

    def branches() -> Any:
        """Grey, scaled and padded before any transposition, with a sum, a concatenation and a mean over places."""
        image = L.Input((9, 9, 1))
        x = L.ZeroPadding2D(1)(L.Rescaling(2.0, offset=-1.0)(image))
        x = L.MaxPooling2D(2, padding="same")(L.SeparableConv2D(6, 3, activation="relu")(x))
        y = L.LeakyReLU()(L.Conv2D(6, 3, padding="same")(x))
        x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(L.Concatenate()([L.Add()([x, y]), y])))
        return keras.Model(image, L.Dense(4)(x))

    def wide() -> Any:
        """Flattened at once, one probability."""
        parts = [L.Input((8, 8, 3)), L.Flatten(), L.Dense(4, activation="relu"), L.Dense(1, activation="sigmoid")]
        return keras.Sequential(parts)

    def decoder() -> Any:
        """Colours scaled apart, a transposed convolution and an average with padding at one side, slopes by channel."""
        image = L.Input((6, 6, 3))
        x = L.Rescaling([3.0, 2.0, 1.5], offset=[-1.2, -1.0, -0.9])(image)
        x = L.PReLU(shared_axes=[1, 2])(L.Conv2DTranspose(4, 3, strides=2, padding="same")(x))
        x = L.AveragePooling2D(3, strides=2, padding="same")(x)
        return keras.Model(image, L.Dense(3)(L.Flatten()(x)))

    def upsampled() -> Any:
        """Nearest, three times: of the image, of a layer by other factors for height and width, and by its resizing layer."""
        image = L.Input((5, 5, 3))
        x = L.Conv2D(4, 3, activation="relu")(L.UpSampling2D(2)(image))
        x = L.BatchNormalization()(L.UpSampling2D((2, 3))(x))
        x = L.Resizing(14, 33, interpolation="nearest")(L.Conv2D(3, 3, strides=2)(x))
        return keras.Model(image, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu")(x))))

    def places() -> Any:
        """Dense layers at every place of an image, of a map and of a sequence, which is repeated too."""
        image = L.Input((6, 6, 3))
        x = L.Conv2D(5, 3, activation="relu")(L.Dense(4, activation="relu")(image))
        x = L.Reshape((4, 12))(L.Dense(3, activation="relu")(x))
        x = L.UpSampling1D(2)(L.Dense(5, activation="relu")(x))
        return keras.Model(image, L.Dense(3)(L.Flatten()(x)))

    keras.utils.set_random_seed(0)
    models = (mobile, branches, wide, decoder, upsampled, places)
    answers = {one.__name__: _of_keras(f"keras_{one.__name__}", one()) for one in models}
    _save("keras", answers)


def _of_keras(name: str, model: Any) -> Any:
    from keras.optimizers import SGD

    height, width, channels = model.input_shape[1:]
    images = images_of((channels, height, width), 64).transpose(0, 2, 3, 1)
    targets = images_of((1, 1, model.output_shape[1]), 64).reshape(64, -1)
    model.compile(optimizer=SGD(0.05), loss="mse")
    model.fit(images, targets, verbose=0, epochs=5)
    model.export(str(FOLDER / f"{name}.onnx"), format="onnx", verbose=False)
    return np.asarray(model(images[:4], training=False), np.float64).tolist()


def _save(tool: str, answers: dict[str, Any]) -> None:
    whole = {name: said for name, said in answers.items() if said is not None}
    (FOLDER / f"{tool}.json").write_text(json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    {"scikit-learn": scikit_learn, "keras": keras}[sys.argv[1]]()
